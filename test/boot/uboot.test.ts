import { runUboot, UBOOT_STATES } from '@sitecast/agent/testing';
import { expect, it } from 'vitest';
import { whyNoUboot } from './testbed/needs.ts';

const why = whyNoUboot();

it.skipIf(why !== '').each(UBOOT_STATES)(
  `the real U-Boot starts the right slot by the shipped boot.cmd from: $what${why}`,
  state => {
    const { variables, hardware, slot, now } = state;
    const { saved, ...found } = runUboot(variables, hardware);
    expect(found).toEqual({ slot });
    expect(saved).toMatchObject(now ?? {});
    expect(Object.keys(saved).length > 0).toBe(now !== undefined);
  },
);

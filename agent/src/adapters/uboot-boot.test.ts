import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { SlotName } from '../ports.ts';
import { BOOT_MACHINES } from '../testing/boot-machines.ts';
import {
  configIn,
  createUbootEnvironment,
  evaluateUboot,
  ubootVariables,
  whyNoUboot,
} from '../testing/uboot-machine.ts';
import { leftOf, UBOOT_STATES } from '../testing/uboot-states.ts';
import { bootcountScheme, bootOrderScheme } from './uboot-boot.ts';

const noUboot = whyNoUboot();
let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-uboot-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

it.each(UBOOT_STATES)('the shipped boot.cmd boots the right slot from: $what', state => {
  const { variables, hardware, slot, now = {} } = state;
  createUbootEnvironment(directory, variables);
  expect(evaluateUboot(directory, 'boot-order', hardware)).toMatchObject({ slot });
  expect(Object.fromEntries(ubootVariables(directory) ?? [])).toEqual({
    bootdelay: '0',
    ...variables,
    ...now,
  });
});

it.each(['env1', 'env2'])('the shipped boot.cmd uses the other copy where %s is damaged', name => {
  createUbootEnvironment(directory, leftOf('B', 0, 3));
  writeFileSync(join(directory, name), '', { flag: 'r+' });
  const damaged = readFileSync(join(directory, name));
  damaged.write('?', 40);
  writeFileSync(join(directory, name), damaged);
  expect(evaluateUboot(directory, 'boot-order').slot).toBe('B');
});

/** Acts like scripts for RAUC: each boot is counted, also that of a good slot, until each boot is confirmed. */
function bootAsRauc(): SlotName {
  const variables = new Map(ubootVariables(directory));
  const order = variables.get('BOOT_ORDER')?.split(' ') ?? [];
  for (;;) {
    for (const slot of order) {
      const tries = Number(variables.get(`BOOT_${slot}_LEFT`));
      if (tries === 0) continue;
      variables.set(`BOOT_${slot}_LEFT`, String(tries - 1));
      createUbootEnvironment(directory, Object.fromEntries(variables));
      return slot === 'B' ? 'B' : 'A';
    }
    for (const slot of ['A', 'B']) variables.set(`BOOT_${slot}_LEFT`, '3');
  }
}

describe.skipIf(noUboot !== undefined)('boot control `uboot`', () => {
  it('keeps a good slot even if the boot script counts each boot, like those for RAUC', async () => {
    await BOOT_MACHINES.uboot.create(directory);
    await BOOT_MACHINES.uboot.open(directory, 'A').markBad('B');
    // Seven boots that end before the agent runs, as with an unstable power supply.
    expect([1, 2, 3, 4, 5, 6, 7].map(bootAsRauc)).toEqual(Array.from('AAAAAAA'));
    const control = BOOT_MACHINES.uboot.open(directory, 'A');
    await control.start({ slots: ['A'], onTrial: undefined });
    expect(ubootVariables(directory)?.get('BOOT_A_LEFT')).toBe('3');
    await control.setTrial('B', 2);
    expect([1, 2, 3, 4].map(bootAsRauc)).toEqual(Array.from('BBAA'));
  });

  it('leaves the other variables as they are', async () => {
    createUbootEnvironment(directory, { ethaddr: '02:00:00:00:00:01', bootcmd: 'run a; run b' });
    await BOOT_MACHINES.uboot.open(directory, 'A').setTrial('B', 2);
    expect(Object.fromEntries(ubootVariables(directory) ?? [])).toEqual({
      bootdelay: '0',
      ethaddr: '02:00:00:00:00:01',
      bootcmd: 'run a; run b',
      BOOT_ORDER: 'B A',
      BOOT_B_LEFT: '2',
      BOOT_A_LEFT: '3',
    });
  });

  it('creates no new environment where both copies are lost: it would lack variables that U-Boot needs', async () => {
    createUbootEnvironment(directory);
    for (const name of ['env1', 'env2']) await writeFile(join(directory, name), Buffer.alloc(0x2000));
    const control = BOOT_MACHINES.uboot.open(directory, 'A');
    await expect(control.start()).rejects.toMatchObject({
      code: 'SITECAST_BOOT_ENVIRONMENT_FAILED',
      hint: expect.stringContaining('/etc/u-boot-initial-env'),
    });
    expect(readFileSync(join(directory, 'env1'))).toEqual(Buffer.alloc(0x2000));
  });

  it('is atomic only with two copies', async () => {
    createUbootEnvironment(directory);
    const control = BOOT_MACHINES.uboot.open(directory, 'A');
    expect(await control.capabilities()).toEqual({ maxTries: 9, countsHangs: true, isAtomic: true });
    const [comment, first] = readFileSync(configIn(directory), 'utf8').split('\n');
    const { UbootEnvironment } = await import('./uboot-boot.ts');
    await writeFile(join(directory, 'one.config'), `${comment}\n${first}\n`);
    const context = { run: neverRun, clock: { now: Date.now, sleep: neverRun }, log: () => {}, stop };
    expect(await new UbootEnvironment(join(directory, 'one.config'), context).isAtomic()).toBe(false);
  });
});

const stop = new AbortController().signal;
const neverRun = async (): Promise<never> => {
  throw new Error('it is not run');
};

it.each([
  ['left', bootOrderScheme, { BOOT_ORDER: 'B A', BOOT_B_LEFT: '0', BOOT_A_LEFT: '3' }, 'A'],
  ['unset', bootOrderScheme, { BOOT_ORDER: 'B A' }, 'B'],
  ['no order', bootOrderScheme, {}, undefined],
  [
    'on trial',
    bootcountScheme,
    { boot_slot: 'B', upgrade_available: '1', bootcount: '1', bootlimit: '2' },
    'B',
  ],
  [
    'used up',
    bootcountScheme,
    { boot_slot: 'B', upgrade_available: '1', bootcount: '2', bootlimit: '2' },
    'A',
  ],
  ['good', bootcountScheme, { boot_slot: 'B', upgrade_available: '0', bootcount: '9', bootlimit: '2' }, 'B'],
] as const)('says which slot comes next (%s)', (_what, scheme, variables, next) => {
  expect(scheme.next(new Map(Object.entries(variables)))).toBe(next);
});

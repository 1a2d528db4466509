import { expect, it } from 'vitest';
import { KILL_PHASES } from '../src/testbed/killed-device.ts';
import { killAtRandom, killsText } from '../src/testbed/random-kills.ts';

/** `SITECAST_KILL_SEED` begins elsewhere. */
const SEED = Number(process.env.SITECAST_KILL_SEED ?? 1000);
const PARTS = 10;
const KILLS = 100;

// 1,000 kills. Each part has an origin, a gateway and devices of its own: a device may say only so much in an hour.
it.each(Array.from({ length: PARTS }, (_, part) => SEED + part))(
  '100 kills at random leave a device that boots, fetch no chunk twice, and lose and double no report (seed %d)',
  async seed => {
    const { kills, updates, ...wrong } = await killAtRandom(seed, KILLS);
    console.log(`seed ${seed}: ${killsText({ kills, updates })}`);
    for (const list of Object.values(wrong)) expect(list).toEqual([]);
    expect(KILL_PHASES.filter(phase => !kills.has(phase))).toEqual([]);
  },
);

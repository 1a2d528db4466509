import { expect, it } from 'vitest';
import { KILL_PHASES } from './testbed/killed-device.ts';
import { killAtRandom, killsText } from './testbed/random-kills.ts';

/** `SITECAST_KILL_SEED` chooses other moments, `SITECAST_KILLS` more of them. */
const SEED = Number(process.env.SITECAST_KILL_SEED ?? 1);
const KILLS = Number(process.env.SITECAST_KILLS ?? 100);

it(`${KILLS} kills at random leave a device that boots, fetch no chunk twice, and lose and double no report`, async () => {
  const { kills, updates, ...wrong } = await killAtRandom(SEED, KILLS);
  console.log(`seed ${SEED}: ${killsText({ kills, updates })}`);
  expect(wrong).toEqual({
    unbootable: [],
    askedTwice: [],
    lostReports: [],
    doubledReports: [],
    leftovers: [],
  });
  // Each has come about; how often is chance.
  expect(KILL_PHASES.filter(phase => !kills.has(phase))).toEqual([]);
});

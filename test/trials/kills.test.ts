import { expect, it } from 'vitest';
import { KILL_PHASES, type KillPhase } from '../src/testbed/killed-device.ts';
import { killAtRandom, killsText } from '../src/testbed/random-kills.ts';

/** Each part has an origin, a gateway and devices of its own: a device may say only so much in an hour. `SITECAST_KILL_SEED` begins elsewhere. */
const SEED = Number(process.env.SITECAST_KILL_SEED ?? 1000);
const PARTS = 10;
const KILLS = 100;

it('1,000 kills at random leave a device that boots, fetch no chunk twice, and lose and double no report', async () => {
  const all = new Map<KillPhase | 'none', number>();
  let updates = 0;
  for (let part = 0; part < PARTS; part += 1) {
    const { kills, updates: more, ...wrong } = await killAtRandom(SEED + part, KILLS);
    console.log(`seed ${SEED + part}: ${killsText({ kills, updates: more })}`);
    for (const list of Object.values(wrong)) expect(list).toEqual([]);
    for (const [phase, count] of kills) all.set(phase, (all.get(phase) ?? 0) + count);
    updates += more;
  }
  console.log(`${PARTS * KILLS} ${killsText({ kills: all, updates })}`);
  expect(KILL_PHASES.filter(phase => !all.has(phase))).toEqual([]);
});

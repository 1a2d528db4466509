import { whyNoRecording } from '@sitecast/shared/testing/disk';
import { beforeAll, describe, expect, it } from 'vitest';
import { OriginReplay } from './testing/power-cut-replay.ts';

// A power cut between any two changes of the origin's disk, which has lost some of what wasn't fsynced. `npm run test:trials` tries all
// of them (test/trials/power-cuts.test.ts).

const seed = Number(process.env.SITECAST_SEED ?? 1);

describe.skipIf(whyNoRecording() !== undefined)('an origin whose power is cut', () => {
  let replay: OriginReplay;
  beforeAll(async () => {
    replay = await OriginReplay.record();
  });

  it('has all that it acknowledged, a whole audit log, and a whole set for clients', async () => {
    const { cuts, wrong } = await replay.cutEverywhere({ seed, choices: 3, step: 29 });
    console.log(cuts);
    expect(wrong).toEqual([]);
  });

  it('has lost something where nothing is ever synced: the same cuts find it', async () => {
    const all = { seed, choices: 4, step: Number.POSITIVE_INFINITY, untilWrong: true };
    expect(await replay.cutEverywhere({ ...all, ignoresSyncs: true })).toMatchObject({
      wrong: [expect.any(String)],
    });
  });
});

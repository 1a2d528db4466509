import { whyNoRecording } from '@sitecast/shared/testing/disk';
import { afterEach, expect, it } from 'vitest';
import { PowerCutReplay } from '../testing/power-cut-replay.ts';

// A power cut between any two changes of the disk, those of the agent's children among them, and of what wasn't fsynced the disk has lost some.
// `npm run test:trials` tries more than 10,000 of them, and U-Boot (test/trials/power-cuts.test.ts).

const noRecording = whyNoRecording();
const seed = Number(process.env.SITECAST_SEED ?? 1);
let replay: PowerCutReplay;
afterEach(async () => {
  await replay.close();
});

it.skipIf(noRecording !== undefined).each(['file', 'grub'] as const)(
  'a whole verified release boots after each power cut, and the update then ends as it would have, with `%s`',
  async machine => {
    replay = await PowerCutReplay.record(machine);
    const { cuts, wrong } = await replay.cutEverywhere({ seed, choices: 3, step: 37 });
    expect(cuts).toBeGreaterThan(60);
    expect(wrong).toEqual([]);
  },
);

it.skipIf(noRecording !== undefined)(
  'the same cuts find what is wrong where nothing is ever synced',
  async () => {
    replay = await PowerCutReplay.record('file');
    const all = { seed, choices: 4, step: Number.POSITIVE_INFINITY, untilWrong: true };
    expect(await replay.cutEverywhere(all)).toMatchObject({ wrong: [] });
    const { wrong } = await replay.cutEverywhere({ ...all, ignoresSyncs: true });
    expect(wrong).toEqual([expect.stringContaining('runs slot A after it has reported completed')]);
  },
);

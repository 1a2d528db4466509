import { PowerCutReplay } from '@sitecast/agent/testing';
import { whyNoRecording } from '@sitecast/shared/testing/disk';
import { expect, it } from 'vitest';

// SITECAST_SEED repeats a run: the same cuts, and the same losses of each.

const noRecording = whyNoRecording();
const seed = Number(process.env.SITECAST_SEED ?? Date.now() % 1_000_000);

it.skipIf(noRecording !== undefined).each(['file', 'grub', 'uboot'] as const)(
  'the power is cut between any two changes of a device that updates, with `%s`',
  async machine => {
    const replay = await PowerCutReplay.record(machine);
    try {
      const { cuts, distinct, wrong } = await replay.cutEverywhere({ seed, choices: 5 });
      console.log(`${machine}: ${cuts} power cuts, ${distinct} different disks, seed ${seed}`);
      expect(wrong).toEqual([]);
      expect(cuts).toBeGreaterThan(3500);
    } finally {
      await replay.close();
    }
  },
);

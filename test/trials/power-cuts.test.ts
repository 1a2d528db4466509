import { randomBytes } from 'node:crypto';
import { PowerCutReplay } from '@sitecast/agent/testing';
import { GatewayHarness, GatewayReplay, removeTemporaryDirectories } from '@sitecast/gateway/testing';
import { OriginReplay } from '@sitecast/origin/testing';
import { type CutOptions, type CutResult, whyNoRecording } from '@sitecast/shared/testing/disk';
import { describe, expect, it } from 'vitest';

// SITECAST_SEED repeats a run: the same losses at the same cuts. The records differ a little from run to run, as the processes do.

const seed = Number(process.env.SITECAST_SEED ?? Date.now() % 1_000_000);
const IMAGE_BYTES = 18 * 16_384;

/** @returns how many cuts there were */
async function expectNothingWrong(
  what: string,
  replay: { cutEverywhere(options: CutOptions): Promise<CutResult> },
  choices: number,
): Promise<number> {
  const { cuts, distinct, wrong } = await replay.cutEverywhere({ seed, choices });
  console.log(`${what}: ${cuts} power cuts, ${distinct} different disks, seed ${seed}`);
  expect(wrong).toEqual([]);
  return cuts;
}

describe.skipIf(whyNoRecording() !== undefined)(
  'the power is cut between any two changes of the disk of',
  () => {
    // 10,000 and more of these three.
    it.each(['file', 'grub', 'uboot'] as const)('a device that updates, with `%s`', async machine => {
      const replay = await PowerCutReplay.record(machine);
      try {
        expect(await expectNothingWrong(machine, replay, 5)).toBeGreaterThan(3400);
      } finally {
        await replay.close();
      }
    });

    it('an origin', async () => {
      expect(await expectNothingWrong('origin', await OriginReplay.record(), 5)).toBeGreaterThan(2000);
    });

    it('a gateway', async () => {
      const harness = new GatewayHarness();
      try {
        const replay = await GatewayReplay.record(await harness.originWith(randomBytes(IMAGE_BYTES)));
        expect(await expectNothingWrong('gateway', replay, 5)).toBeGreaterThan(1000);
      } finally {
        await harness.closeAll();
        await removeTemporaryDirectories();
      }
    });
  },
);

import { randomBytes } from 'node:crypto';
import { whyNoRecording } from '@sitecast/shared/testing/disk';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GatewayHarness, removeTemporaryDirectories } from './testing/harness.ts';
import { GatewayReplay } from './testing/power-cut-replay.ts';

// A power cut between any two changes of the gateway's disk, which has lost some of what wasn't fsynced. `npm run test:trials` tries all
// of them (test/trials/power-cuts.test.ts).

const seed = Number(process.env.SITECAST_SEED ?? 1);

describe.skipIf(whyNoRecording() !== undefined)('a gateway whose power is cut', () => {
  const harness = new GatewayHarness();
  let replay: GatewayReplay;
  beforeAll(async () => {
    replay = await GatewayReplay.record(await harness.originWith(randomBytes(18 * 16_384)));
  });
  afterAll(async () => {
    await harness.closeAll();
    await removeTemporaryDirectories();
  });

  it('passes all reports on that it had taken, and serves a whole set and whole chunks', async () => {
    expect(await replay.cutEverywhere({ seed, choices: 3, step: 29 })).toMatchObject({ wrong: [] });
  });

  it('has lost reports where nothing is ever synced: the same cuts find it', async () => {
    const all = { seed, choices: 4, step: Number.POSITIVE_INFINITY, untilWrong: true, ignoresSyncs: true };
    expect(await replay.cutEverywhere(all)).toMatchObject({ wrong: [expect.stringContaining('lost')] });
  });
});

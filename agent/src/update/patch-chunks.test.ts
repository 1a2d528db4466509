import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { encodeRecipe } from '@sitecast/shared/delta';
import { expect, it } from 'vitest';
import { AgentHarness } from '../testing/harness.ts';

const CHUNK_BYTES = 20_000;
const CHUNKS = 20;
const MIB = 2 ** 20;
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

it('fetches no patches in chunks that are longer than what they give, however short the patches are said to be', async () => {
  const harness = await AgentHarness.open();
  const { fleet, device, gateway } = harness;
  try {
    const image = () => randomBytes(CHUNKS * CHUNK_BYTES);
    const base = fleet.addRelease({ counter: 1, image: image(), chunkBytes: CHUNK_BYTES });
    fleet.addRollout(1);
    await fleet.publishAll();
    await device.cycle();
    const target = fleet.addRelease({ counter: 2, image: image(), chunkBytes: CHUNK_BYTES });
    fleet.addRollout(2);
    await fleet.publishAll();
    gateway.served.length = 0;
    // Each second patch has one byte. It shares a chunk of one mebibyte with a patch that no device can apply.
    const windows = Array.from({ length: CHUNKS }, (_, at) => ({
      firstChunk: at,
      chunkCount: 1,
      baseOffset: 0,
      baseLength: 0,
      patchLength: at % 2 === 0 ? 1 : MIB - 1,
      frameBytes: 2 * CHUNK_BYTES,
      encoderBits: at % 2,
    }));
    const recipe = (patchIndex: Uint8Array) =>
      encodeRecipe(
        {
          product: 'camera',
          from: { counter: 1, indexSha256: sha256(base.index.encode()) },
          to: { counter: 2, indexSha256: sha256(target.index.encode()) },
          patchIndexSha256: sha256(patchIndex),
          encoders: ['nobody-has-it'],
          restFrameBytes: 0,
        },
        windows,
        { base: base.index, target: target.index },
      );
    const patches = randomBytes((CHUNKS / 2) * MIB);
    await fleet.publishDelta({ product: 'camera', from: 1, to: 2 }, recipe, patches, MIB);
    const directory = join(device.directory, 'data', 'patches');
    let mostKept = 0;
    gateway.misbehave = () => {
      try {
        const kept = readdirSync(directory).map(name => statSync(join(directory, name)).size);
        mostKept = Math.max(
          mostKept,
          kept.reduce((sum, bytes) => sum + bytes, 0),
        );
      } catch {
        // The directory doesn't exist yet.
      }
      return undefined;
    };
    await device.cycle();
    const servedBytes = gateway.served.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    expect(mostKept).toBe(0);
    expect(servedBytes).toBeLessThan(1.2 * CHUNKS * CHUNK_BYTES);
    expect(harness.reports.map(({ reason }) => reason?.code)).toContain('SITECAST_PATCH_TOO_LARGE');
    expect(
      harness.reports.some(({ release, state }) => release?.counter === 2 && state === 'rebooting'),
    ).toBe(true);
  } finally {
    await harness.close();
  }
});

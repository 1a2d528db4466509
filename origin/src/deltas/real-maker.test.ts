import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ChunkIndex, decompressExactly } from '@sitecast/shared/content';
import { applyPatch, decodeRecipe, targetIndexOf, windowsOf } from '@sitecast/shared/delta';
import { until } from '@sitecast/shared/testing';
import { afterEach, expect, it } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { imageOf } from '../testing/operator.ts';
import { composeDelta, makeDelta } from './maker/index.ts';

let harness: FleetHarness | undefined;
afterEach(async () => {
  await harness?.origin.deltas.stop();
  await harness?.close();
});

it('makes a delta with the real maker, in its process, that a device can apply', async () => {
  const maker = { makeDelta, composeDelta };
  harness = await FleetHarness.open(path => ({ ...testDisk(path), deltaMaker: maker }));
  const old = Array.from({ length: 12 }, () => randomBytes(20_000));
  // Two chunks have a few changes and are moved; one is new.
  const changed = old.map((chunk, at) => {
    if (at !== 4 && at !== 5) return chunk;
    const edited = Buffer.concat([randomBytes(7), chunk]);
    edited.fill('edit', 9000, 9100);
    return edited;
  });
  const [base, target] = [imageOf(...old), imageOf(...changed, randomBytes(5000))];
  await harness.operator.publishOk('camera', base);
  await harness.operator.publishOk('camera', target);
  const { origin, path } = harness;
  const name = { product: 'camera', from: 2, to: 3 };
  origin.deltas.start();
  await origin.deltas.request([name], 'test');
  await until(
    'the delta',
    () => origin.deltas.job(name)?.state === 'published' || origin.deltas.job(name)?.reason !== undefined,
  );
  const job = origin.deltas.job(name);
  expect(job).toMatchObject({ state: 'published' });
  expect(job?.patchBytes).toBeLessThan(10_000);

  const folder = join(path, 'repository/targets/deltas');
  const read = (ending: string) =>
    readFileSync(join(folder, readdirSync(folder).find(file => file.endsWith(ending)) ?? ''));
  const recipe = decodeRecipe(read('.recipe'));
  const baseIndex = ChunkIndex.decode(base.index);
  const targetIndex = targetIndexOf(recipe, baseIndex);
  const patches = Buffer.concat(
    [...ChunkIndex.decode(read('.caibx')).places()].map(({ id, lengthBytes }) =>
      decompressExactly(readFileSync(join(path, publishedPath(id))), lengthBytes),
    ),
  );
  const [oldImage, image] = [Buffer.concat(old), Buffer.concat(target.chunks)];
  const windows = windowsOf(recipe, baseIndex, targetIndex);
  expect(windows.length).toBeGreaterThan(0);
  for (const window of windows) {
    const { baseOffset, baseLength, targetOffset, targetLength, patchOffset, patchLength } = window;
    const made = applyPatch({
      patch: patches.subarray(patchOffset, patchOffset + patchLength),
      base: oldImage.subarray(baseOffset, baseOffset + baseLength),
      targetLength,
    });
    expect(Buffer.from(made)).toEqual(image.subarray(targetOffset, targetOffset + targetLength));
  }
});

import { ChunkIndex } from '@sitecast/shared/content';
import { decodeRecipe, targetIndexOf } from '@sitecast/shared/delta';
import { until } from '@sitecast/shared/testing';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { testMaker } from '../testing/deltas.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { imageOf } from '../testing/operator.ts';
import { randomChunks } from '../testing/setup.ts';

let harness: FleetHarness | undefined;
afterEach(async () => {
  await harness?.origin.deltas.stop();
  await harness?.close();
});

/** Requests the delta to an image for which no patch is smaller than the chunks. */
async function made(chunks: number, changed: number) {
  harness = await FleetHarness.open(path => ({
    ...testDisk(path),
    deltaMaker: testMaker({ isWorth: false }),
  }));
  const { operator, origin, path } = harness;
  const base = imageOf(...randomChunks(chunks, 200));
  const target = imageOf(...base.chunks.slice(changed), ...randomChunks(changed, 200));
  await operator.publishOk('camera', base);
  await operator.publishOk('camera', target);
  const name = { product: 'camera', from: 2, to: 3 };
  origin.deltas.start();
  await origin.deltas.request([name], 'test');
  await until('an end', () => ['published', 'notWorth'].includes(origin.deltas.job(name)?.state ?? ''));
  return { base, target, path, job: origin.deltas.job(name) };
}

it('publishes a recipe without patches where describing the index as a difference saves enough', async () => {
  const { base, target, path, job } = await made(300, 20);
  expect(job).toMatchObject({ state: 'published', patches: 0, patchBytes: 0 });
  const folder = join(path, 'repository/targets/deltas');
  const recipe = decodeRecipe(
    readFileSync(join(folder, readdirSync(folder).find(name => name.endsWith('.recipe')) ?? '')),
  );
  expect(recipe.windows).toEqual([]);
  const index = targetIndexOf(recipe, ChunkIndex.decode(base.index));
  expect(Buffer.from(index.encode())).toEqual(Buffer.from(target.index));
  expect((job?.headBytes ?? 0) + 4096).toBeLessThan(target.index.length);
  expect(job?.chunkBytes).toBe(target.index.length + (job?.restBytes ?? 0));
});

it('publishes no recipe where that saves too little', async () => {
  expect((await made(60, 20)).job).toMatchObject({ state: 'notWorth' });
});

import { createHash } from 'node:crypto';
import type { ChunkIndex } from '@sitecast/shared/content';
import { encodeRecipe } from '@sitecast/shared/delta';
import { recipeTarget } from '@sitecast/shared/release';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, expect, it } from 'vitest';
import { GatewayHarness, memoryLog, removeTemporaryDirectories, until } from '../testing/harness.ts';
import { CHUNK_BYTES, enrolRunning, noise, timesAsked } from '../testing/site-with-deltas.ts';
import { DeltaAllowance, type DeltaImage } from './delta-allowance.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const DELTA = { product: 'camera', from: 1, to: 2 };
const PATCH_BYTES = 60_000;
/** Enough rounds to show that nothing else is fetched. */
const SOME_ROUNDS_MS = 4500;

const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** What the holder of the key of `deltas` can list: another recipe each time, of the same windows, with other bytes as patches. */
async function listRecipe(
  origin: FakeOrigin,
  { base, target }: { base: ChunkIndex; target: ChunkIndex },
  nth: number,
): Promise<{ path: string; ids: readonly Uint8Array[] }> {
  let path = '';
  const recipe = (patchIndex: Uint8Array): Uint8Array => {
    const bytes = encodeRecipe(
      {
        product: 'camera',
        from: { counter: 1, indexSha256: sha256Of(base.encode()) },
        to: { counter: 2, indexSha256: sha256Of(target.encode()) },
        patchIndexSha256: sha256Of(patchIndex),
        // Devices that can do other things have other plans.
        encoders: [`encoder-${nth}`],
        restFrameBytes: CHUNK_BYTES,
      },
      [
        {
          firstChunk: 4,
          chunkCount: 4,
          baseOffset: 0,
          baseLength: CHUNK_BYTES,
          patchLength: PATCH_BYTES,
          frameBytes: 4 * CHUNK_BYTES,
          encoderBits: 0,
        },
      ],
      { base, target },
    );
    path = `targets/${recipeTarget(DELTA).replace('/', `/${sha256Of(bytes)}.`)}`;
    return bytes;
  };
  const { ids } = await origin.repository.publishDelta(DELTA, recipe, noise(1, 100 + nth, PATCH_BYTES));
  return { path, ids };
}

it('fetches ahead no more than an image costs, and few recipes, however many the key of deltas signs', async () => {
  const origin = await harness.origin();
  const old = noise(4, 1);
  const base = await origin.publishRelease('camera', 1, old);
  // Ten chunks: room for the patches of two recipes.
  const target = await origin.publishRelease('camera', 2, Buffer.concat([old, noise(6, 2)]));
  const indexes = { base: base.index, target: target.index };
  const recipes = [await listRecipe(origin, indexes, 0)];
  await origin.startRollout('camera', 2);
  const gateway = await harness.gateway(origin, { prefetch: true });
  await gateway.untilEnrolled();
  const encoders = Array.from({ length: 6 }, (_, nth) => `encoder-${nth}`);
  await enrolRunning(gateway, 1, `recipe-1 ${encoders.join(' ')}`);
  const isFetched = ({ ids }: { ids: readonly Uint8Array[] }): boolean =>
    timesAsked(origin, ids).every(times => times === 1);
  await until(() => recipes.every(isFetched), 'the first patches');
  recipes.push(await listRecipe(origin, indexes, 1));
  await until(() => recipes.every(isFetched), 'the second ones');
  for (const nth of [2, 3]) {
    const recipe = await listRecipe(origin, indexes, nth);
    recipes.push(recipe);
    await until(() => origin.count(`GET /${recipe.path}`) === 1, 'the next recipe');
  }
  recipes.push(await listRecipe(origin, indexes, 4));
  await sleep(SOME_ROUNDS_MS);
  expect(recipes.map(({ path }) => origin.count(`GET /${path}`))).toEqual([1, 1, 1, 1, 0]);
  expect(recipes.map(isFetched)).toEqual([true, true, false, false, false]);
  // The chunks that no patch gives came once.
  expect(timesAsked(origin, target.ids)).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
  const warnings = gateway.log.lines.filter(({ message }) => message.includes('no more of them is fetched'));
  expect(warnings).toMatchObject([{ level: 'warn', fields: { product: 'camera', counter: 2 } }]);

  // Whoever asks is served, as by the bounds of devices.
  const last = recipes.at(-1);
  expect((await gateway.get(last?.path ?? '')).status).toBe(200);
}, 60_000);

function allowance(costBytes: number) {
  const log = memoryLog();
  const image: DeltaImage = { key: 'index sha', product: 'camera', to: 2, costBytes: () => costBytes };
  return { of: new DeltaAllowance(log), image, log };
}

const fileOf = (name: number, length: number) => ({
  name: `${name}`,
  role: 'deltas',
  file: { length, hashes: { sha256: `hash ${name}` } },
});

it('admits 4 recipes of a pair, 32 of a release, 64 plans; what was admitted once costs nothing again', () => {
  const { of, image } = allowance(1e9);
  const pair = [0, 1, 2, 3, 4].map(name => of.admitRecipe(image, 1, fileOf(name, 10)));
  expect(pair).toEqual([true, true, true, true, false]);
  expect(of.admitRecipe(image, 1, fileOf(0, 10))).toBe(true);
  const all = Array.from({ length: 29 }, (_, at) => of.admitRecipe(image, 2 + at, fileOf(10 + at, 10)));
  expect(all.filter(Boolean)).toHaveLength(28);
  const plans = Array.from({ length: 65 }, (_, at) => of.admitPatches(image, `${at}`, 10));
  expect(plans.filter(Boolean)).toHaveLength(64);
  expect(of.admitPatches(image, '0', 10)).toBe(true);
  // Another release has bounds of its own.
  expect(of.admitRecipe({ ...image, key: 'other' }, 1, fileOf(0, 10))).toBe(true);
});

it('admits recipes, indexes and patches of one image until they cost as much as its chunks, and says so once', () => {
  const { of, image, log } = allowance(1000);
  expect(of.admitRecipe(image, 1, fileOf(1, 400))).toBe(true);
  expect(of.admitPatchIndex(image, fileOf(2, 300))).toBe(true);
  expect(of.admitPatches(image, 'plan', 301)).toBe(false);
  expect(of.admitPatches(image, 'plan', 300)).toBe(true);
  expect(of.admitPatchIndex(image, fileOf(3, 1))).toBe(false);
  expect(log.lines).toHaveLength(1);
  of.keepOnly(new Set());
  expect(of.admitPatchIndex(image, fileOf(3, 1))).toBe(true);
});

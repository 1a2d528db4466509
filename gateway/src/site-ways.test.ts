import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChunkIndex } from '@sitecast/shared/content';
import { encodeRecipe } from '@sitecast/shared/delta';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import { afterAll, afterEach, expect, it } from 'vitest';
import { GatewayHarness, removeTemporaryDirectories, type TestGateway, until } from './testing/harness.ts';
import { CHUNK_BYTES, enrolRunning, noise, timesAsked } from './testing/site-with-deltas.ts';

// By which way devices of a site come to a release: patches serve the devices of one release alone, chunks serve all.

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const CHUNKS = 4;
/** Two of them are longer than the image of 65,536 bytes; two of the others are not. */
const LONG_PATCH_BYTES = 40_000;
const SHORT_PATCH_BYTES = 20_000;
const BASES = [1, 2];
const NEXT = 3;

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** Releases that share no chunk, and from each base a delta whose one patch is so long. */
async function releases(origin: FakeOrigin, patchBytes: number, chunkBytes = CHUNK_BYTES) {
  const publish = (counter: number) =>
    origin.publishRelease('camera', counter, noise(CHUNKS, counter), chunkBytes);
  const bases = [];
  for (const counter of BASES) bases.push({ counter, ...(await publish(counter)) });
  const target = await publish(NEXT);
  const release = (counter: number, index: ChunkIndex) => ({ counter, indexSha256: sha256(index.encode()) });
  const patches = [];
  for (const base of bases) {
    const recipe = (patchIndex: Uint8Array): Uint8Array =>
      encodeRecipe(
        {
          product: 'camera',
          from: release(base.counter, base.index),
          to: release(NEXT, target.index),
          patchIndexSha256: sha256(patchIndex),
          encoders: [],
          restFrameBytes: 0,
        },
        [
          {
            firstChunk: 0,
            chunkCount: target.index.count,
            baseOffset: 0,
            baseLength: CHUNK_BYTES,
            patchLength: patchBytes,
            frameBytes: CHUNKS * CHUNK_BYTES,
            encoderBits: 0,
          },
        ],
        { base: base.index, target: target.index },
      );
    const name = { product: 'camera', from: base.counter, to: NEXT };
    patches.push(
      await origin.repository.publishDelta(name, recipe, noise(1, 100 + base.counter, patchBytes)),
    );
  }
  await origin.startRollout('camera', NEXT);
  return { target, patches };
}

const enrol = (gateway: TestGateway, counter: number, takesSiteWay: boolean) =>
  enrolRunning(gateway, counter, 'recipe-1', { takesSiteWay });

async function waysOf(gateway: TestGateway): Promise<unknown[]> {
  const ways = [];
  for (const from of BASES) {
    const { body } = await gateway.get(`site/v1/ways/camera/${from}/${NEXT}`);
    ways.push(JSON.parse(body.toString()).way);
  }
  return ways;
}
it('is chunks where all patches together are longer; those are fetched ahead, and no patch', async () => {
  const origin = await harness.origin();
  const { target, patches } = await releases(origin, LONG_PATCH_BYTES);
  const gateway = await harness.gateway(origin, { prefetch: true });
  await gateway.untilEnrolled();
  await Promise.all(BASES.map(counter => enrol(gateway, counter, true)));
  expect(await waysOf(gateway)).toEqual(['chunks', 'chunks']);
  await until(async () => (await gateway.metric('sitecast_cache_chunks')) >= CHUNKS, 'the chunks');
  await sleep(2500);
  expect(timesAsked(origin, target.ids)).toEqual(target.ids.map(() => 1));
  for (const { ids } of patches) expect(timesAsked(origin, ids)).toEqual(ids.map(() => 0));
});

it('is deltas where they are shorter, where a device takes one in any case, and where nothing is known', async () => {
  const origin = await harness.origin();
  await releases(origin, SHORT_PATCH_BYTES);
  const gateway = await harness.gateway(origin);
  await gateway.untilEnrolled();
  expect(await waysOf(gateway)).toEqual(['deltas', 'deltas']);
  expect(origin.count('.recipe')).toBe(0);
  await Promise.all(BASES.map(counter => enrol(gateway, counter, true)));
  expect(await waysOf(gateway)).toEqual(['deltas', 'deltas']);

  const other = await harness.origin();
  await releases(other, LONG_PATCH_BYTES);
  const paying = await harness.gateway(other);
  await paying.untilEnrolled();
  await enrol(paying, 1, true);
  // It has a bound of its own: its patches come over the WAN, whatever the others do.
  await enrol(paying, 1, false);
  await enrol(paying, 2, true);
  expect(await waysOf(paying)).toEqual(['deltas', 'deltas']);
});

it('is deltas where their recipes are too long to be fetched for that alone', async () => {
  const origin = await harness.origin();
  // The index is in them, as a difference: 40 bytes a chunk.
  await releases(origin, LONG_PATCH_BYTES, 32);
  const gateway = await harness.gateway(origin);
  await gateway.untilEnrolled();
  await Promise.all(BASES.map(counter => enrol(gateway, counter, true)));
  for (let asked = 0; asked < 3; asked += 1) expect(await waysOf(gateway)).toEqual(['deltas', 'deltas']);
  expect(origin.count('.recipe')).toBe(0);
});

it.each(['camera/0/3', 'camera/1/x', '..%2f/1/3', 'camera/1/99999999999999999'])(
  'is refused for what is no delta: %s',
  async name => {
    const gateway = await harness.gateway(await harness.origin());
    expect((await gateway.get(`site/v1/ways/${name}`)).status).toBe(400);
  },
);

import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChunkIndex } from '@sitecast/shared/content';
import { encodeRecipe } from '@sitecast/shared/delta';
import { afterAll, afterEach, expect, it } from 'vitest';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import {
  removeTemporaryDirectories,
  TestDevice,
  type TestGateway,
  GatewayHarness,
  until,
} from './testing/harness.ts';
import { CHUNK_BYTES, enrolRunning, noise, pathOf, timesAsked } from './testing/site-with-deltas.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

/** A camera at Lisbon that the gateway knows. */
async function enrolDevice(gateway: TestGateway): Promise<void> {
  await gateway.untilEnrolled();
  const device = new TestDevice();
  const envelope = await device.enrolment();
  await device.post(`${gateway.url}/site/v1/enrolments`, { envelope });
  await until(async () => (await gateway.metric('sitecast_devices')) === 1, 'the device to be known');
}

it('fetches ahead what devices of the site will install: once, and not what they have already', async () => {
  const origin = await harness.origin();
  const old = noise(4, 1);
  await origin.publishRelease('camera', 1, old);
  await origin.startRollout('camera', 1, { state: 'completed' });
  const camera = await origin.publishRelease('camera', 2, Buffer.concat([old, noise(6, 2)]));
  const other = await origin.publishRelease('sensor', 1, noise(3, 3));
  const elsewhere = await origin.publishRelease('camera', 3, noise(3, 4));
  await origin.startRollout('camera', 2);
  await origin.startRollout('sensor', 1);
  await origin.startRollout('camera', 3, { match: { sites: ['porto'] } });
  const gateway = await harness.gateway(origin, { prefetch: true });
  await enrolDevice(gateway);
  await until(async () => (await gateway.metric('sitecast_cache_chunks')) === 6, 'the chunks');
  // Enough rounds to show that nothing else is fetched.
  await sleep(2500);
  expect(timesAsked(origin, camera.ids)).toEqual([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
  expect(timesAsked(origin, [...other.ids, ...elsewhere.ids])).toEqual([0, 0, 0, 0, 0, 0]);
  for (const id of camera.ids) expect((await gateway.get(pathOf(id))).status).toBe(200);
  expect(timesAsked(origin, camera.ids)).toEqual(camera.ids.map(() => 1));
});

it('fetches the other chunks ahead where no source has one of them', async () => {
  const origin = await harness.origin();
  const older = await origin.publishRelease('camera', 1, noise(3, 1));
  const newer = await origin.publishRelease('camera', 2, noise(6, 2));
  await origin.startRollout('camera', 1);
  await origin.startRollout('camera', 2);
  const [lost = Buffer.alloc(32)] = newer.ids;
  origin.repository.files.delete(pathOf(lost));
  const gateway = await harness.gateway(origin, { prefetch: true });
  await enrolDevice(gateway);
  await until(async () => (await gateway.metric('sitecast_cache_chunks')) === 8, 'the other chunks');
  expect(timesAsked(origin, older.ids)).toEqual([1, 1, 1]);
});

it('fetches nothing ahead that would fill more than half of the cache, or where it is switched off', async () => {
  const { origin, ids } = await harness.originWith(noise(8, 1));
  const small = await harness.gateway(origin, { prefetch: true, cacheBytes: 16 * CHUNK_BYTES - 1 });
  const off = await harness.gateway(origin, { prefetch: false });
  for (const gateway of [small, off]) await enrolDevice(gateway);
  await sleep(2500);
  expect(origin.count('GET /chunks/')).toBe(0);
  const large = await harness.gateway(origin, { prefetch: true, cacheBytes: 16 * CHUNK_BYTES });
  await enrolDevice(large);
  await until(() => origin.count('GET /chunks/') === ids.length, 'all of it');
});

it('fetches no chunk in quiet hours, but follows the repository; afterwards it fetches what waited', async () => {
  const origin = await harness.origin();
  const first = await origin.publishRelease('camera', 1, noise(2, 1));
  await origin.startRollout('camera', 1);
  let offsetMs = 0;
  const now = () => Date.now() + offsetMs;
  const hour = (at: number) => `${String((new Date().getHours() + 24 + at) % 24).padStart(2, '0')}:00`;
  const quietHours = `${hour(-1)}-${hour(2)}`;
  const gateway = await harness.gateway(origin, { prefetch: true, quietHours }, { now });
  await enrolDevice(gateway);
  const [one = Buffer.alloc(32)] = first.ids;
  const refused = await gateway.get(pathOf(one));
  expect([refused.status, JSON.parse(refused.body.toString()).code]).toEqual([503, 'SITECAST_QUIET_HOURS']);
  // The quiet hours last for more than another hour.
  expect(refused.headers.get('retry-after')).toBe('3600');
  await origin.publishRelease('camera', 2, noise(1, 2));
  const timestamp = origin.repository.bytesOf('timestamp');
  await until(
    async () => (await gateway.get('metadata/timestamp.json')).body.equals(timestamp),
    'the new set',
  );
  await sleep(2500);
  expect(origin.count('GET /chunks/')).toBe(0);
  // The quiet hours end, and what waited is fetched ahead.
  offsetMs = 3 * 3_600_000;
  await until(() => origin.count('GET /chunks/') === 2, 'the chunks of the rollout');
});

it('keeps its rate over a real socket, and delays no metadata', async () => {
  const origin = await harness.origin();
  const chunkBytes = 256 * 1024;
  const { ids } = await origin.publishRelease('camera', 1, noise(6, 1, chunkBytes), chunkBytes);
  await origin.startRollout('camera', 1);
  // So slow that the new set comes before the chunks on a busy machine, too.
  const gateway = await harness.gateway(origin, { wanRate: 400_000 });
  const beginMs = performance.now();
  const chunks = Promise.all(ids.map(id => gateway.get(pathOf(id))));
  await sleep(200);
  await origin.publishRelease('camera', 2, noise(1, 2));
  const timestamp = origin.repository.bytesOf('timestamp');
  let isFetched = false;
  void chunks.then(() => (isFetched = true));
  await until(
    async () => (await gateway.get('metadata/timestamp.json')).body.equals(timestamp),
    'the new set',
  );
  expect(isFetched).toBe(false);
  expect((await chunks).every(({ status }) => status === 200)).toBe(true);
  // It is a lower bound: a busy machine or a full link only makes it slower.
  expect(performance.now() - beginMs).toBeGreaterThan((6 * chunkBytes) / 400 - 100);
});

it('counts metadata in its rate: chunks wait for it', async () => {
  const origin = await harness.origin();
  // 300 kB of metadata.
  for (let at = 0; at < 2000; at += 1) origin.repository.addTarget('targets', `other/${at}`, 'x');
  const { ids } = await origin.publishRelease('camera', 1, noise(1, 1));
  await origin.startRollout('camera', 1);
  const beginMs = performance.now();
  const gateway = await harness.gateway(origin, { wanRate: 150_000 });
  const [id = Buffer.alloc(32)] = ids;
  expect((await gateway.get(pathOf(id))).status).toBe(200);
  const metadataBytes = await gateway.metric('sitecast_wan_received_bytes_total{kind="metadata"}');
  expect(metadataBytes).toBeGreaterThan(250_000);
  // A lower bound, as above.
  expect(performance.now() - beginMs).toBeGreaterThan(metadataBytes / 150 - 100);
});

it('keeps its rate for chunk indexes, too, and counts them', async () => {
  const origin = await harness.origin();
  // 5000 chunks are 200 kB of index.
  const { index } = await origin.publishRelease('camera', 1, noise(5000, 1, 32), 32);
  const indexBytes = index.encode().length;
  await origin.startRollout('camera', 1);
  const beginMs = performance.now();
  const gateway = await harness.gateway(origin, { wanRate: 100_000 });
  // A lower bound, as above.
  expect(performance.now() - beginMs).toBeGreaterThan(indexBytes / 100 - 100);
  const received = await gateway.metric('sitecast_wan_received_bytes_total{kind="targets"}');
  expect(received).toBeGreaterThanOrEqual(indexBytes);
});

/**
 * Two releases with a common begin, and a delta whose patch makes the first of the two chunks that differ.
 * @param isOtherIndex the recipe gives the base's index instead of the target's
 */
async function releasesWithDelta(origin: FakeOrigin, { isOtherIndex = false } = {}) {
  const old = noise(4, 1);
  const image = Buffer.concat([old, noise(2, 2)]);
  const base = await origin.publishRelease('camera', 1, old);
  const target = await origin.publishRelease('camera', 2, image);
  const shaOf = (index: ChunkIndex): string => createHash('sha256').update(index.encode()).digest('hex');
  const recipe = (patchIndex: Uint8Array): Uint8Array =>
    encodeRecipe(
      {
        product: 'camera',
        from: { counter: 1, indexSha256: shaOf(base.index) },
        to: { counter: 2, indexSha256: shaOf(target.index) },
        patchIndexSha256: createHash('sha256').update(patchIndex).digest('hex'),
        encoders: [],
        restFrameBytes: CHUNK_BYTES,
      },
      [
        {
          firstChunk: isOtherIndex ? 3 : 4,
          chunkCount: 1,
          baseOffset: 0,
          baseLength: CHUNK_BYTES,
          patchLength: 3000,
          frameBytes: CHUNK_BYTES,
          encoderBits: 0,
        },
      ],
      { base: base.index, target: isOtherIndex ? base.index : target.index },
    );
  const publishDelta = (role: 'deltas' | 'targets' = 'deltas') =>
    origin.repository.publishDelta(
      { product: 'camera', from: 1, to: 2 },
      recipe,
      noise(1, 9, 3000),
      undefined,
      role,
    );
  return { target, publishDelta };
}

it.each(['deltas', 'targets'] as const)(
  'fetches ahead by the deltas (in %s) from the releases that devices run, and no chunk that a patch makes',
  async role => {
    const origin = await harness.origin();
    const { target, publishDelta } = await releasesWithDelta(origin);
    const patches = await publishDelta(role);
    // As long as nothing tells which release a device runs, no whole image is fetched for it.
    await origin.startRollout('camera', 2, { deltasBy: new Date(Date.now() + 3_600_000).toISOString() });
    const gateway = await harness.gateway(origin, { prefetch: true });
    await gateway.untilEnrolled();
    await enrolRunning(gateway, 1);
    await until(async () => (await gateway.metric('sitecast_cache_chunks')) >= 2, 'the plan');
    await sleep(2500);
    expect(timesAsked(origin, target.ids)).toEqual([0, 0, 0, 0, 0, 1]);
    expect(timesAsked(origin, patches.ids)).toEqual(patches.ids.map(() => 1));
  },
);

it('waits for a delta while the order says so where the WAN has a rate, and begins with chunks elsewhere', async () => {
  const origin = await harness.origin();
  const { target, publishDelta } = await releasesWithDelta(origin);
  await origin.startRollout('camera', 2, { deltasBy: new Date(Date.now() + 3_600_000).toISOString() });
  const metered = await harness.gateway(origin, { prefetch: true, wanRate: 10_000_000 });
  await metered.untilEnrolled();
  await enrolRunning(metered, 1);
  await sleep(4500);
  expect(timesAsked(origin, target.ids)).toEqual([0, 0, 0, 0, 0, 0]);
  const patches = await publishDelta();
  await until(async () => (await metered.metric('sitecast_cache_chunks')) === 2, 'the plan');
  expect(timesAsked(origin, target.ids)).toEqual([0, 0, 0, 0, 0, 1]);
  expect(timesAsked(origin, patches.ids)).toEqual(patches.ids.map(() => 1));
  await metered.close();

  const other = await harness.origin();
  const second = await releasesWithDelta(other);
  await other.startRollout('camera', 2, { deltasBy: new Date(Date.now() + 3_600_000).toISOString() });
  const open = await harness.gateway(other, { prefetch: true });
  await open.untilEnrolled();
  await enrolRunning(open, 1);
  await until(async () => (await open.metric('sitecast_cache_chunks')) === 2, 'the chunks');
  expect(timesAsked(other, second.target.ids)).toEqual([0, 0, 0, 0, 1, 1]);
});

it('fetches chunks ahead for devices that use no deltas, whatever others wait for', async () => {
  const origin = await harness.origin();
  const { target, publishDelta } = await releasesWithDelta(origin);
  const patches = await publishDelta();
  await origin.startRollout('camera', 2, { deltasBy: new Date(Date.now() + 3_600_000).toISOString() });
  const gateway = await harness.gateway(origin, { prefetch: true, wanRate: 10_000_000 });
  await gateway.untilEnrolled();
  await enrolRunning(gateway, 1, 'recipe-1 signed-only');
  await until(async () => (await gateway.metric('sitecast_cache_chunks')) === 2, 'the chunks');
  expect(timesAsked(origin, target.ids)).toEqual([0, 0, 0, 0, 1, 1]);
  expect(timesAsked(origin, patches.ids)).toEqual(patches.ids.map(() => 0));
});

it('makes the index of a release from the recipe that its devices need, and fetches no recipe for others', async () => {
  const origin = await harness.origin();
  const { target, publishDelta } = await releasesWithDelta(origin);
  await origin.startRollout('camera', 1, { state: 'completed' });
  const gateway = await harness.gateway(origin, { prefetch: true });
  await gateway.untilEnrolled();
  await enrolRunning(gateway, 1);
  await publishDelta();
  await origin.repository.publishDelta({ product: 'camera', from: 7, to: 2 }, noise(1, 8), noise(1, 10));
  await origin.startRollout('camera', 2);
  await until(async () => (await gateway.metric('sitecast_cache_chunks')) >= 2, 'the plan');
  const sha256 = createHash('sha256').update(target.index.encode()).digest('hex');
  const index = `targets/releases/${sha256}.camera-2.caibx`;
  expect((await gateway.get(index)).body).toEqual(Buffer.from(target.index.encode()));
  expect(origin.count(`GET /${index}`)).toBe(0);
  expect(origin.count('GET /targets/deltas/')).toBe(2);
});

it('fetches the index where the recipe gives another one', async () => {
  const origin = await harness.origin();
  const { target, publishDelta } = await releasesWithDelta(origin, { isOtherIndex: true });
  await origin.startRollout('camera', 1, { state: 'completed' });
  const gateway = await harness.gateway(origin);
  await publishDelta();
  await origin.startRollout('camera', 2);
  const sha256 = createHash('sha256').update(target.index.encode()).digest('hex');
  const index = `targets/releases/${sha256}.camera-2.caibx`;
  await until(() => origin.count(`GET /${index}`) === 1, 'the index');
  expect((await gateway.get(index)).body).toEqual(Buffer.from(target.index.encode()));
  expect(await gateway.isReady()).toBe(true);
});

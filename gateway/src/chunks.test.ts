import { createHash } from 'node:crypto';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { chunkPath, MAX_FRAME_BYTES } from '@sitecast/shared/content';
import { afterAll, afterEach, expect, it } from 'vitest';
import { type FakeOrigin, type Fault, faultAt, type PublishedImage } from '@sitecast/shared/testing/origin';
import { removeTemporaryDirectories, GatewayHarness, until } from './testing/harness.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

/** Incompressible bytes, the same for the same seed. */
function noise(lengthBytes: number, seed: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at * 32 < lengthBytes; at += 1)
    parts.push(createHash('sha256').update(`${seed} ${at}`).digest());
  return Buffer.concat(parts).subarray(0, lengthBytes);
}

async function published(chunks = 8, seed = 1): Promise<{ origin: FakeOrigin } & PublishedImage> {
  return await harness.originWith(noise(chunks * 16_384, seed));
}

const pathOf = (id: Uint8Array): string => `chunks/${chunkPath(id)}`;

/** A request that is aborted before its answer. */
function askAndLeave(url: string): Promise<void> {
  return new Promise(resolve => {
    const asking = request(url, () => undefined);
    asking.once('error', () => resolve());
    asking.end();
    setTimeout(() => {
      asking.destroy();
      resolve();
    }, 50);
  });
}

it('fetches a chunk once for concurrent requests of many devices, though some of them disconnect', async () => {
  const { origin, ids } = await published(3);
  const gateway = await harness.gateway(origin);
  origin.misbehave = path =>
    path.startsWith('/chunks/')
      ? response => void setTimeout(() => response.end(origin.fileAt(path)), 200)
      : undefined;
  for (const id of ids) {
    const leaving = [1, 2, 3, 4].map(() => askAndLeave(`${gateway.url}/${pathOf(id)}`));
    const answers = await Promise.all(Array.from({ length: 64 }, () => gateway.get(pathOf(id))));
    await Promise.all(leaving);
    for (const { status, body } of answers) {
      expect(status).toBe(200);
      expect(body.equals(origin.fileAt(pathOf(id)))).toBe(true);
    }
  }
  expect(origin.count('GET /chunks/')).toBe(3);
  expect(await gateway.metric('sitecast_chunks_found_total{where="upstream"}')).toBe(3);
});

it('asks no upstream for chunks that no mirrored index names, or for paths that are no chunk', async () => {
  const { origin } = await published();
  const gateway = await harness.gateway(origin);
  const before = origin.requests.length;
  const stranger = createHash('sha256').update('of another product').digest();
  const hex = stranger.toString('hex');
  const paths = [
    pathOf(stranger),
    `chunks/0000/${hex}.cacnk`,
    `chunks/${hex.slice(0, 4)}/${hex.toUpperCase()}.cacnk`,
    'chunks/..%2f..%2fidentity.key',
    'chunks/0000/..%2f..%2f..%2fidentity.key',
    'targets/releases/..%2f..%2f..%2fidentity.key',
    'metadata/..%2fidentity.key',
    'metadata/%2e%2e%2f%2e%2e%2fidentity.key',
    'metadata/1.root.json%00',
    'targets/releases/%ff%fe',
    `targets/releases/${hex}.camera-9.caibx`,
  ];
  for (const path of paths) expect([path, (await gateway.get(path)).status]).toEqual([path, 404]);
  expect(origin.requests.slice(before).filter(line => /chunks|targets\//.test(line))).toEqual([]);
});

const badChunks: [string, Fault][] = [
  ['other bytes', Buffer.from('28b52ffd2001000000', 'hex')],
  ['a body that ends too soon', 'truncate'],
  ['a body without an end', 'endless'],
  ['a redirect', 'redirect'],
  ['nothing', 'missing'],
  ['no answer', 'drop'],
];

it.each(badChunks)(
  'serves no chunk when its upstream sends %s, and asks the next upstream',
  async (_what, bad) => {
    const { origin, ids } = await published(2);
    const second = await harness.origin();
    for (const id of ids) second.repository.files.set(pathOf(id), origin.fileAt(pathOf(id)));
    origin.misbehave = faultAt('/chunks/', bad);
    const [first = Buffer.alloc(32), other = first] = ids;

    const alone = await harness.gateway(origin);
    const { status, body } = await alone.get(pathOf(first));
    expect(status).toBe(503);
    expect(JSON.parse(body.toString())).toMatchObject({ status: 503, code: 'SITECAST_CHUNK_UNAVAILABLE' });
    origin.misbehave = undefined;
    expect((await alone.get(pathOf(first))).status).toBe(200);

    origin.misbehave = faultAt('/chunks/', bad);
    const backed = await harness.gateway(origin, { upstream: [second.url] });
    for (const id of [first, other]) {
      const answer = await backed.get(pathOf(id));
      expect([answer.status, answer.body.equals(second.fileAt(pathOf(id)))]).toEqual([200, true]);
    }
  },
);

it('fetches a peer gateway’s request from the origin only, and nothing if the peer asks for present chunks only', async () => {
  const { origin, ids } = await published(3);
  const neighbour = await harness.gateway(origin);
  const gateway = await harness.gateway(origin, { upstream: [neighbour.url] });
  const [first = Buffer.alloc(32), second = Buffer.alloc(32)] = ids;
  const [mayFetch, heldOnly] = [{ 'sitecast-forwarded': '1' }, { 'sitecast-forwarded': '2' }];
  expect((await gateway.get(pathOf(first), heldOnly)).status).toBe(404);
  expect(origin.count('GET /chunks/')).toBe(0);
  expect((await gateway.get(pathOf(first), mayFetch)).status).toBe(200);
  expect((await gateway.get(pathOf(first), heldOnly)).status).toBe(200);
  expect(origin.count('GET /chunks/')).toBe(1);

  // The neighbour has the chunk, and would be asked for a device.
  await neighbour.get(pathOf(second));
  origin.misbehave = faultAt('/chunks/', 'broken');
  expect((await gateway.get(pathOf(second), mayFetch)).status).toBe(503);
  expect((await gateway.get(pathOf(second))).status).toBe(200);
});

it('forwards no request in a circle when two gateways have each other as the origin', async () => {
  const { origin, ids } = await published(1);
  const [id = Buffer.alloc(32)] = ids;
  const one = await harness.gateway(origin);
  const port = Number(new URL(one.url).port);
  const { data } = one.settings;
  const two = await harness.gateway(origin, { origin: one.url });
  await one.close();
  const again = await harness.gateway(origin, { data, listen: { host: '127.0.0.1', port }, origin: two.url });
  expect((await again.get(pathOf(id))).status).toBe(503);
  expect(origin.count('GET /chunks/')).toBe(0);
});

it('serves its cache after a restart without the origin, and verifies it first', async () => {
  const { origin, ids } = await published(6);
  const gateway = await harness.gateway(origin);
  for (const id of ids) await gateway.get(pathOf(id));
  await until(async () => (await gateway.metric('sitecast_cache_chunks')) === 6, 'the cache to be written');
  await gateway.close();
  const [damaged = Buffer.alloc(32), lost = damaged, long = damaged, ...rest] = ids;
  const { data } = gateway.settings;
  await writeFile(join(data, chunkFile(damaged)), origin.fileAt(pathOf(lost)));
  await writeFile(join(data, chunkFile(lost)), '');
  await writeFile(join(data, chunkFile(long)), Buffer.alloc(MAX_FRAME_BYTES + 1));
  await origin.close();

  const offline = await harness.gateway(origin, { data });
  for (const id of rest) expect((await offline.get(pathOf(id))).body).toEqual(origin.fileAt(pathOf(id)));
  expect((await offline.get(pathOf(damaged))).status).toBe(503);
  expect((await offline.get(pathOf(lost))).status).toBe(503);
  expect((await offline.get(pathOf(long))).status).toBe(503);
  expect(await offline.metric('sitecast_cache_damaged_total')).toBe(3);
  await origin.listen();
  await until(async () => (await offline.get(pathOf(damaged))).status === 200, 'the origin');
  for (const id of [lost, long])
    expect((await offline.get(pathOf(id))).body).toEqual(origin.fileAt(pathOf(id)));
  // The valid chunk is in its place again, whatever was there.
  const cached = () => readFile(join(data, chunkFile(long))).catch(() => Buffer.alloc(0));
  await until(async () => (await cached()).equals(origin.fileAt(pathOf(long))), 'the cache to be written');
});

const chunkFile = (id: Uint8Array): string => join('chunks', chunkPath(id));

it('keeps its cache below the bound: the least recently used go first, those that a rollout needs stay', async () => {
  const origin = await harness.origin();
  const old = await origin.publishRelease('camera', 1, noise(10 * 16_384, 1));
  const needed = await origin.publishRelease('camera', 2, noise(4 * 16_384, 2));
  await origin.startRollout('camera', 2);
  // Room for ten chunks.
  const gateway = await harness.gateway(origin, { cacheBytes: 10 * 16_500, memoryBytes: 1 });
  await gateway.get(`targets/${targetPath(origin, 'releases/camera-1.caibx')}`);
  for (const id of [...needed.ids, ...old.ids]) expect((await gateway.get(pathOf(id))).status).toBe(200);
  const holds = (files: string[], id: Uint8Array | undefined) =>
    id !== undefined && files.some(path => path.includes(chunkPath(id)));
  // Chunks are cached and evicted after the answers. The write of the last chunk comes before the last evictions.
  await until(async () => {
    const files = await cachedFiles(gateway.settings.data);
    return holds(files, old.ids.at(-1)) && !holds(files, old.ids[0]) && files.length <= 10;
  }, 'the cache to be written and trimmed');
  expect(await gateway.metric('sitecast_cache_bytes')).toBeLessThanOrEqual(10 * 16_500);
  const kept = await cachedFiles(gateway.settings.data);
  for (const id of needed.ids) expect(holds(kept, id)).toBe(true);
});

async function cachedFiles(data: string): Promise<string[]> {
  const names = await readdir(join(data, 'chunks'), { recursive: true });
  return names.filter(name => name.endsWith('.cacnk')).map(name => join(data, 'chunks', name));
}

function targetPath({ repository }: FakeOrigin, name: string): string {
  const digest = repository.targets.targets[name]?.hashes.sha256;
  const [folder, file] = name.split('/');
  return `${folder}/${digest}.${file}`;
}

it('finds chunks whose record was lost when the process was killed', async () => {
  const { origin, ids } = await published(3);
  const gateway = await harness.gateway(origin);
  for (const id of ids) await gateway.get(pathOf(id));
  await until(async () => (await gateway.metric('sitecast_cache_chunks')) === 3, 'the cache to be written');
  await gateway.close();
  await rm(join(gateway.settings.data, 'state'), { recursive: true });
  const again = await harness.gateway(origin, { data: gateway.settings.data });
  await until(async () => (await again.metric('sitecast_cache_chunks')) === 3, 'the records');
  for (const id of ids) await again.get(pathOf(id));
  expect(origin.count('GET /chunks/')).toBe(3);
});

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf, chunkPath, compressFrame } from '@sitecast/shared/content';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { hexOf, imageOf } from '../testing/operator.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
const image = imageOf(...randomChunks(2));
const index = `/targets/releases/${hexOf(image.index)}.camera-1.caibx`;
const [chunk = Buffer.alloc(0)] = image.chunks;
const chunkUrl = `/chunks/${chunkPath(chunkIdOf(chunk))}`;

beforeAll(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
  await origin.operator.publishOk('camera', image);
});
afterAll(() => origin.remove());

const get = (path: string, headers: Record<string, string> = {}, method = 'GET') =>
  Promise.resolve(origin.app.request(path, { headers, method }));
const bytesOf = async (response: Response) => Buffer.from(await response.arrayBuffer());

describe.each([
  ['metadata', '/metadata/2.targets.json', 'application/json', 'public, max-age=31536000, immutable'],
  ['the timestamp', '/metadata/timestamp.json', 'application/json', 'no-cache'],
  ['a target file', index, 'application/octet-stream', 'public, max-age=31536000, immutable'],
  ['a chunk', chunkUrl, 'application/octet-stream', 'public, max-age=31536000, immutable'],
])('%s', (_what, path, type, caching) => {
  const onDisk = () => readFileSync(join(origin.path, 'repository', path));

  it('is sent whole, with type, length, ETag and caching time', async () => {
    const response = await get(path);
    expect(response.status).toBe(200);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': type,
      'content-length': String(onDisk().length),
      'cache-control': caching,
      'accept-ranges': 'bytes',
      'x-content-type-options': 'nosniff',
      etag: expect.stringMatching(/^"[\w-]+"$/),
    });
    expect(await bytesOf(response)).toEqual(onDisk());
  });

  it('answers HEAD with the same headers and no body', async () => {
    const head = await get(path, {}, 'HEAD');
    expect(head.status).toBe(200);
    expect(Object.fromEntries(head.headers)).toEqual(Object.fromEntries((await get(path)).headers));
    expect(await bytesOf(head)).toHaveLength(0);
  });

  it('is not sent again to a client that has it', async () => {
    const etag = (await get(path)).headers.get('etag') ?? '';
    for (const condition of [etag, `"x", ${etag}`, `W/${etag}`, '*']) {
      // Node's `fetch` sends this with a conditional request.
      const response = await get(path, { 'if-none-match': condition, 'cache-control': 'no-cache' });
      expect(response.status).toBe(304);
      expect(response.headers.get('etag')).toBe(etag);
      expect(await bytesOf(response)).toHaveLength(0);
    }
    expect((await get(path, { 'if-none-match': '"x"' })).status).toBe(200);
  });

  it.each([
    ['bytes=0-9', 0, 9],
    ['bytes=10-', 10, undefined],
    ['bytes=-7', -7, undefined],
    ['bytes=0-0', 0, 0],
    ['bytes=5-99999999', 5, undefined],
  ])('is sent in part for %s', async (range, start, end) => {
    const all = onDisk();
    const from = start < 0 ? all.length + start : start;
    const to = end ?? all.length - 1;
    const response = await get(path, { range });
    expect(response.status).toBe(206);
    expect(response.headers.get('content-range')).toBe(`bytes ${from}-${to}/${all.length}`);
    expect(response.headers.get('content-length')).toBe(String(to - from + 1));
    expect(await bytesOf(response)).toEqual(all.subarray(from, to + 1));
    const head = await get(path, { range }, 'HEAD');
    expect([head.status, head.headers.get('content-range')]).toEqual([
      206,
      `bytes ${from}-${to}/${all.length}`,
    ]);
  });

  it('resumes after an interruption only if it is still the same file', async () => {
    const etag = (await get(path)).headers.get('etag') ?? '';
    expect((await get(path, { range: 'bytes=10-', 'if-range': etag })).status).toBe(206);
    for (const other of ['"x"', `W/${etag}`, 'Tue, 01 Jan 2030 00:00:00 GMT']) {
      expect((await get(path, { range: 'bytes=10-', 'if-range': other })).status).toBe(200);
    }
  });

  it('refuses a range beyond its end, and ignores a malformed one', async () => {
    const response = await get(path, { range: 'bytes=99999999-' });
    expect(response.status).toBe(416);
    expect(response.headers.get('content-range')).toBe(`bytes */${onDisk().length}`);
    expect(await response.json()).toMatchObject({ code: 'SITECAST_RANGE_UNSATISFIABLE' });
    for (const range of ['bytes=x', 'lines=1-2', 'bytes=0-1,5-6', 'bytes=9-1,']) {
      expect([200, 416]).toContain((await get(path, { range })).status);
    }
    expect((await get(path, { range: 'bytes=0-1,5-6' })).status).toBe(200);
  });
});

it.each([
  '/metadata/99.root.json',
  '/metadata/root.json',
  '/metadata/01.root.json',
  '/metadata/1.root.json/',
  '/metadata/..%2f..%2fadmin.token',
  '/metadata/%2e%2e/timestamp.json',
  '/metadata/1.root.json%00',
  '/targets/releases/x.json',
  '/targets/releases/..%2f..%2f..%2fkeys%2ftimestamp.pem',
  '/targets/%2e%2e/metadata',
  `/targets/keys/${'a'.repeat(64)}.x.json`,
  '/chunks/aaaa/x.cacnk',
  `/chunks/aaaa/${'b'.repeat(64)}.cacnk`,
  `/chunks/AAAA/${'a'.repeat(64)}.cacnk`,
  '/keys/timestamp.pem',
  '/admin.token',
  '/staging/commit.json',
])('answers 404 for %s, and forbids caching it', async path => {
  const response = await get(path);
  expect(response.status).toBe(404);
  expect(response.headers.get('cache-control')).toBe('no-store');
  expect(await response.json()).toMatchObject({ code: 'SITECAST_NOT_FOUND' });
});

it('serves each chunk under its own prefix only', async () => {
  const [, , prefix, name] = chunkUrl.split('/');
  expect((await get(`/chunks/${prefix === 'aaaa' ? 'bbbb' : 'aaaa'}/${name}`)).status).toBe(404);
});

it('streams what is too long for memory, ranges too', async () => {
  const bytes = Buffer.concat(randomChunks(3, 1024 * 1024));
  const name = `${hexOf(bytes)}.camera-9.caibx`;
  writeFileSync(join(origin.path, 'repository/targets/releases', name), bytes);
  const path = `/targets/releases/${name}`;
  expect((await bytesOf(await get(path))).equals(bytes)).toBe(true);
  const part = await bytesOf(await get(path, { range: 'bytes=100-2999999' }));
  expect(part.equals(bytes.subarray(100, 3_000_000))).toBe(true);
});

it('serves a chunk exactly as it was uploaded', async () => {
  expect(await bytesOf(await get(chunkUrl))).toEqual(compressFrame(chunk));
});

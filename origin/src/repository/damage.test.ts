import { mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf } from '@sitecast/shared/content';
import { indexTarget, manifestTarget, productTarget } from '@sitecast/shared/release';
import { nextVersion } from '@sitecast/shared/signing';
import { targetPath } from '@sitecast/shared/trust';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { LOOK_EVERY_MS } from '../fleet/presence.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import { hexOf, imageOf } from '../testing/operator.ts';
import { openTestOrigin } from '../testing/origin.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';

const disks = (path: string) => testDisk(path);
const JSON_HEADERS = { 'content-type': 'application/json' };

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
let store: MemoryTables;
const image = imageOf(...randomChunks(4));
beforeEach(async () => {
  store = new MemoryTables();
  origin = await temporaryOrigin(path => ({ ...disks(path), store }));
  await origin.operator.publishOk('camera', image);
});
afterEach(async () => {
  await origin.scrubber.stop();
  await origin.remove();
});

const at = (path: string) => join(origin.path, path);
const pathOf = (chunk: Buffer) => publishedPath(chunkIdOf(chunk));
const chunkOf = (number: number): Buffer => {
  const chunk = image.chunks[number];
  if (!chunk) throw new Error('no such chunk');
  return chunk;
};
/** A path below repository/, requested as a client does. */
const get = async (path: string) => origin.app.request(path.replace(/^repository/, ''));
const status = () => origin.operator.json('/api/v1/repository');
const damage = async () => (await status()).damage;
const metric = async (name: string): Promise<number> => {
  const text = await (await origin.app.request('/metrics')).text();
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
};
const repair = () => origin.operator.json('/api/v1/repairs', { method: 'POST' });
const check = () => origin.operator.json('/api/v1/releases/camera/1/check', { method: 'POST' });

function flip(path: string): void {
  const bytes = readFileSync(at(path));
  const middle = bytes.length >> 1;
  bytes[middle] = (bytes[middle] ?? 0) ^ 1;
  writeFileSync(at(path), bytes);
}

const spoilt: [string, (path: string) => void][] = [
  ['a flipped bit', flip],
  ['a cut file', path => truncateSync(at(path), 100)],
  ['an empty file', path => truncateSync(at(path), 0)],
  ['a missing file', path => rmSync(at(path))],
  [
    'a file that can’t be read',
    path => {
      rmSync(at(path));
      mkdirSync(at(path));
    },
  ],
];

describe('a published chunk with', () => {
  const whole = { releases: [], deltas: [], files: [] };

  it.each(spoilt)('%s is found by reading all of them back, named, and replaced', async (_what, spoil) => {
    const { operator, scrubber } = origin;
    expect((await get(pathOf(chunkOf(1)))).status).toBe(200);
    spoil(pathOf(chunkOf(1)));
    await scrubber.pass();
    await scrubber.survey();
    expect(await status()).toMatchObject({
      damage: { releases: [{ product: 'camera', counter: 1, version: '1.0.0', chunks: 1 }], files: [] },
      warnings: [{ code: 'SITECAST_CHUNKS_LOST', message: expect.stringContaining('publish it again') }],
    });
    expect(await metric('sitecast_lost_chunks')).toBe(1);
    origin.clock.passHours(1);
    expect((await get(pathOf(chunkOf(1)))).status).toBe(404);

    expect(await repair()).toMatchObject({ chunks: 0, files: [] });
    const missing = await operator.ask('/api/v1/chunks/missing', {
      method: 'POST',
      body: Buffer.concat(image.chunks.map(chunk => Buffer.from(chunkIdOf(chunk)))),
      type: 'application/octet-stream',
    });
    expect(Buffer.from(await missing.arrayBuffer())).toEqual(Buffer.from(chunkIdOf(chunkOf(1))));
    await operator.upload(image);
    expect(await repair()).toMatchObject({ chunks: 1 });
    expect(await damage()).toEqual(whole);
    expect((await get(pathOf(chunkOf(1)))).status).toBe(200);
    const next = await openTestOrigin({ ...disks(origin.path), now: origin.clock.now });
    expect((await next.chunks.missing(Buffer.from(chunkIdOf(chunkOf(1))))).length).toBe(0);
  });

  it('a flipped bit is never sent: it is found when the chunk is read', async () => {
    const path = pathOf(chunkOf(0));
    flip(path);
    const answers = await Promise.all([get(path), get(path), get(path)]);
    expect(answers.map(answer => answer.status)).toEqual([404, 404, 404]);
    await vi.waitUntil(() => readdirSync(at('damaged/chunks')).length === 1, {
      interval: 5,
      timeout: 60_000,
    });
    expect(await metric('sitecast_damaged_chunks_total')).toBe(1);
    await origin.scrubber.survey();
    expect(await damage()).toMatchObject({ releases: [{ chunks: 1 }] });
    // Another release with the same chunk restores it, too.
    expect(await origin.operator.publish('door', imageOf(chunkOf(0)))).toMatchObject({ httpStatus: 200 });
    await vi.waitUntil(async () => (await metric('sitecast_lost_chunks')) === 0, {
      interval: 5,
      timeout: 60_000,
    });
    expect((await get(path)).status).toBe(200);
  });

  it('a flipped bit in a chunk that was verified before is found where an operator asks, and after a restart', async () => {
    expect(await check()).toEqual({ httpStatus: 200, chunks: 0, files: [] });
    flip(pathOf(chunkOf(2)));
    expect(await check()).toEqual({ httpStatus: 200, chunks: 1, files: [] });
    const next = await openTestOrigin({ ...disks(origin.path), now: origin.clock.now });
    await next.scrubber.survey();
    expect(next.repository.damage.chunks).toBe(1);
    const ids = Buffer.from(chunkIdOf(chunkOf(2)));
    expect(Buffer.from(await next.chunks.missing(ids))).toEqual(ids);
  });
});

it('demands an operator’s token before it reads a release back, and accepts listed releases only', async () => {
  const stranger = await origin.app.request('/api/v1/releases/camera/1/check', { method: 'POST' });
  expect(stranger.status).toBe(401);
  expect(await origin.operator.json('/api/v1/releases/camera/7/check', { method: 'POST' })).toMatchObject({
    httpStatus: 404,
    code: 'SITECAST_RELEASE_UNKNOWN',
  });
});

describe('a published target file with', () => {
  const names = [manifestTarget('camera', 1), indexTarget('camera', 1), productTarget('camera')];
  const placeOf = (name: string) =>
    `repository/targets/${targetPath(name, hexOf(origin.operator.files.get(name) ?? Buffer.alloc(0)))}`;

  it.each(spoilt)(
    '%s is never sent, is named, and is replaced, also where its copy is lost',
    async (_what, spoil) => {
      const { operator, scrubber } = origin;
      for (const name of names) spoil(placeOf(name));
      for (const name of readdirSync(at('spare'))) rmSync(at(`spare/${name}`));
      for (const name of names) expect((await get(placeOf(name))).status).toBe(404);
      await scrubber.survey();
      expect(await damage()).toMatchObject({ files: expect.arrayContaining(names) });
      // Each warning names the cure.
      expect((await status()).warnings).toMatchObject(
        [
          /camera-1\.json.*withdraw camera VERSION --counter 1/,
          /camera-1\.caibx\): publish the release again with the same image$/,
          /camera\.json\): bring it back .*GATEWAY$/,
        ].map(text => ({ code: 'SITECAST_FILES_LOST', message: expect.stringMatching(text) })),
      );
      expect(await metric('sitecast_lost_files')).toBe(3);
      await operator.uploadFiles();
      expect(await repair()).toMatchObject({ files: expect.arrayContaining(names), chunks: 0 });
      expect(await damage()).toEqual({ releases: [], deltas: [], files: [] });
      for (const name of names)
        expect(Buffer.from(await (await get(placeOf(name))).arrayBuffer())).toEqual(operator.files.get(name));
      // A later release needs all of them.
      expect(await operator.publish('camera', imageOf(...randomChunks(1)))).toMatchObject({
        httpStatus: 200,
      });
    },
  );
});

describe('metadata', () => {
  it('in force is served correctly, whatever the disk has made of it, and written again', async () => {
    const names = ['1.root.json', '2.targets.json', '2.snapshot.json', '1.rollouts.json', '1.deltas.json'];
    const right = names.map(name => readFileSync(at(`repository/metadata/${name}`)));
    for (const name of [...names, 'timestamp.json']) flip(`repository/metadata/${name}`);
    for (const [number, name] of names.entries())
      expect(Buffer.from(await (await get(`/metadata/${name}`)).arrayBuffer())).toEqual(right[number]);
    await origin.scrubber.survey();
    expect(names.map(name => readFileSync(at(`repository/metadata/${name}`)))).toEqual(right);
    expect(await metric('sitecast_damaged_files_total')).toBe(6);
    const { repository } = await openTestOrigin({ ...disks(origin.path), now: origin.clock.now });
    expect(repository.versions()).toEqual(origin.repository.versions());
  });

  it('of a root that was in force before is named, and never sent', async () => {
    const { operator, scrubber } = origin;
    if (!operator.root) throw new Error();
    operator.root = nextVersion(operator.root, origin.clock.nowMs);
    expect(await operator.submit({ root: true, targets: false })).toMatchObject({ httpStatus: 200 });
    const root = readFileSync(at('repository/metadata/1.root.json'));
    flip('repository/metadata/1.root.json');
    expect((await get('/metadata/1.root.json')).status).toBe(404);
    await scrubber.survey();
    expect(await damage()).toMatchObject({ files: ['1.root.json'] });
    writeFileSync(at('repository/metadata/1.root.json'), root);
    await scrubber.recheck();
    expect(await damage()).toMatchObject({ files: [] });
    expect((await get('/metadata/1.root.json')).status).toBe(200);
  });

  it('and files of rollouts are written again, because the origin knows their content', async () => {
    const { operator, repository, scrubber } = origin;
    const body = JSON.stringify({ product: 'camera', version: '1.0.0', allAtOnce: true });
    const { id } = await operator.json('/api/v1/rollouts', { method: 'POST', headers: JSON_HEADERS, body });
    const [name = ''] = readdirSync(at('repository/targets/rollouts'));
    const bytes = readFileSync(at(`repository/targets/rollouts/${name}`));
    flip(`repository/targets/rollouts/${name}`);
    await scrubber.survey();
    expect(readFileSync(at(`repository/targets/rollouts/${name}`))).toEqual(bytes);
    expect(bytes.toString()).toContain(String(id));
    expect(repository.damage.files).toBe(0);
    expect(await metric('sitecast_damaged_files_total')).toBe(1);
    // The next process has only the records.
    rmSync(at(`repository/targets/rollouts/${name}`));
    await openTestOrigin({ ...disks(origin.path), store, now: origin.clock.now });
    expect(readFileSync(at(`repository/targets/rollouts/${name}`))).toEqual(bytes);
  });
});

describe('a timestamp that is damaged while a commit is unfinished', () => {
  const newest = ['2.targets.json', '2.snapshot.json'].map(name => `repository/metadata/${name}`);

  it.each([
    ['all of whose files are there counts as done', newest, 2],
    ['that lacks a file is undone', [...newest, 'repository/metadata/9.rollouts.json'], 1],
  ])('keeps no origin from starting: one %s', async (_which, created, targets) => {
    const journal = JSON.parse(readFileSync(at('staging/commit.json'), 'utf8'));
    const begun = { ...journal, state: 'begun', timestamp: 'f'.repeat(64), created };
    writeFileSync(at('staging/commit.json'), JSON.stringify(begun));
    writeFileSync(at('repository/metadata/timestamp.json'), Buffer.alloc(17 * 1024, 'x'));
    const { repository } = await openTestOrigin({ ...disks(origin.path), store, now: origin.clock.now });
    expect(repository.versions()).toMatchObject({ targets });
    expect(repository.missingKeys).toEqual([]);
  });
});

it('forgets the damage of a release that is withdrawn', async () => {
  const { operator, scrubber } = origin;
  rmSync(at(pathOf(chunkOf(0))));
  await scrubber.survey();
  expect(await damage()).toMatchObject({ releases: [{ chunks: 1 }] });
  const product = operator.products.get('camera');
  if (!product) throw new Error();
  operator.next();
  operator.removeTarget(manifestTarget('camera', 1));
  operator.removeTarget(indexTarget('camera', 1));
  operator.setProduct({ ...product, withdrawn: [{ counter: 1, version: '1.0.0' }] });
  await operator.uploadFiles();
  expect(await operator.submit()).toMatchObject({ httpStatus: 200 });
  expect(await damage()).toEqual({ releases: [], deltas: [], files: [] });
});

it('reads back no faster than its rate, starts over after a week, and stops on request', async () => {
  await origin.scrubber.stop();
  const waits: number[] = [];
  let isDone = false;
  const { repository, scrubber } = await openTestOrigin({
    ...disks(origin.path),
    now: origin.clock.now,
    scrubBytesPerS: 1000,
    after: (delayMs, act) => {
      waits.push(delayMs);
      const timer = setImmediate(() => {
        if (!isDone) act();
      });
      return () => clearImmediate(timer);
    },
  });
  await scrubber.survey();
  await scrubber.pass();
  isDone = true;
  const { readBytes } = scrubber;
  expect(readBytes).toBeGreaterThan(4000);
  const files = ['manifest', 'index'] as const;
  const listed = repository.committed?.targets.signed.targets ?? {};
  const fileBytes = files.reduce(
    (sum, kind) =>
      sum + (listed[kind === 'index' ? indexTarget('camera', 1) : manifestTarget('camera', 1)]?.length ?? 0),
    0,
  );
  // The timers of the fleet's services don't matter here.
  const others = new Set([60_000, LOOK_EVERY_MS]);
  const waited = waits.filter(ms => ms < 3_600_000 && !others.has(ms)).reduce((sum, ms) => sum + ms, 0);
  // The pause for the last thousand bytes comes with the next read.
  expect(waited).toBeGreaterThan(readBytes + fileBytes - 1000);
  expect(waited).toBeLessThanOrEqual(readBytes + fileBytes);
  await scrubber.stop();
  await expect(scrubber.pass()).rejects.toBeInstanceOf(Error);
});

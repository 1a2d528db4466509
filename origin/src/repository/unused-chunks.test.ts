import type { Repository } from './repository.ts';
import { cpSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf } from '@sitecast/shared/content';
import { POINT_STEP } from '@sitecast/shared/testing';
import { indexTarget, manifestTarget } from '@sitecast/shared/release';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { publishedPath } from '../adapters/disk/layout.ts';
import { Breaker } from '../adapters/disk/testing/failing-disk.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { testDelta } from '../testing/deltas.ts';
import { batchOf, imageOf } from '../testing/operator.ts';
import { openTestOrigin, type TestOrigin } from '../testing/origin.ts';
import { randomChunks, temporaryOrigin } from '../testing/setup.ts';

const TTL_MS = 7 * 24 * 3_600_000;
const shared = randomChunks(2);
const first = imageOf(...shared, ...randomChunks(2));
const second = imageOf(...shared, ...randomChunks(3));
const patches = randomChunks(2, 500);
// One of its patches is a chunk of the first image, too.
const delta = testDelta(
  { product: 'camera', from: 1, to: 2 },
  { base: first, target: second, patches: [...patches, ...first.chunks.slice(2, 3)] },
);

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
beforeEach(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
  await origin.operator.publishOk('camera', first);
  await origin.operator.publishOk('camera', second);
});
afterEach(() => origin.remove());

const isThere = (chunk: Buffer) => existsSync(join(origin.path, publishedPath(chunkIdOf(chunk))));
const thereOf = (chunks: readonly Buffer[]) => chunks.map(isThere);

async function publishDelta(): Promise<void> {
  const batch = batchOf(patches);
  const memory = new ArrayBuffer(batch.length);
  Buffer.from(memory).set(batch);
  await origin.chunks.stage(memory, batch.length);
  await origin.repository.changeDeltas({ added: [delta] });
}

/** Takes the first release out of the list. */
async function withdrawFirst(): Promise<void> {
  const { operator } = origin;
  const product = operator.products.get('camera');
  if (!product) throw new Error();
  operator.next();
  operator.removeTarget(manifestTarget('camera', 1));
  operator.removeTarget(indexTarget('camera', 1));
  operator.setProduct({ ...product, withdrawn: [{ counter: 1, version: '1.0.0' }] });
  await operator.uploadFiles();
  expect(await operator.submit()).toMatchObject({ httpStatus: 200 });
}

/** Sweeps like upkeep, some days later. */
async function sweepLater(
  days: number,
  { repository }: Pick<TestOrigin, 'repository'> = origin,
): Promise<void> {
  origin.clock.passDays(days);
  await repository.renew();
  await sweepAll(repository, origin.clock.nowMs - TTL_MS);
}

async function sweepAll(repository: Repository, stagedBeforeMs: number): Promise<void> {
  await repository.sweep(stagedBeforeMs);
  await repository.removeUnusedChunks(stagedBeforeMs);
}

it('deletes the patches of a delta a day after its removal, and nothing that another index names', async () => {
  await publishDelta();
  await sweepLater(8);
  expect(thereOf(patches)).toEqual([true, true]);
  await origin.repository.changeDeltas({ removed: [delta] });
  // Gateways that follow the earlier state are still fetching.
  await sweepLater(0.5);
  expect(thereOf(patches)).toEqual([true, true]);
  await sweepLater(1);
  expect(thereOf(patches)).toEqual([false, false]);
  expect(thereOf([...first.chunks, ...second.chunks]).every(Boolean)).toBe(true);
  // The same delta can be made again.
  await publishDelta();
  expect(thereOf(patches)).toEqual([true, true]);
});

it('deletes the chunks of a withdrawn release, but none that another one has or that an upload asks for', async () => {
  await sweepLater(8);
  await withdrawFirst();
  await sweepLater(0);
  await sweepLater(0.9);
  expect(thereOf(first.chunks)).toEqual([true, true, true, true]);
  // A release that is being uploaded has one of its chunks, which isn't sent again.
  const third = imageOf(...first.chunks.slice(2, 3), ...randomChunks(1));
  await origin.operator.upload(third);
  await sweepLater(0.2);
  expect(thereOf(first.chunks)).toEqual([true, true, true, false]);
  await sweepLater(6);
  expect(isThere(first.chunks[2] ?? Buffer.alloc(0))).toBe(true);
  await origin.operator.publishOk('camera', third);
  await sweepLater(9);
  await sweepLater(9);
  expect(thereOf([...third.chunks, ...second.chunks]).every(Boolean)).toBe(true);
  expect(await origin.scrubber.checkRelease('camera', 3)).toEqual({ chunks: 0, files: [] });
});

it('deletes nothing while it is not known what an index names', async () => {
  await withdrawFirst();
  await sweepLater(8);
  const folder = join(origin.path, 'repository/targets/releases');
  const lost = readdirSync(folder).find(name => name.endsWith('camera-2.caibx')) ?? '';
  writeFileSync(join(folder, lost), 'damaged');
  for (const name of readdirSync(join(origin.path, 'spare')))
    writeFileSync(join(origin.path, 'spare', name), 'damaged');
  await expect(sweepLater(2)).rejects.toMatchObject({ code: 'SITECAST_FILES_LOST' });
  expect(thereOf([...first.chunks, ...second.chunks]).every(Boolean)).toBe(true);
});

it('keeps chunks that newer metadata named as long as those of an upload, where a part of a backup was restored, and says so', async () => {
  const metadata = join(origin.path, 'repository/metadata');
  const backup = join(origin.path, 'backup');
  cpSync(metadata, backup, { recursive: true });
  origin.clock.passDays(1);
  await origin.repository.renew();
  const third = imageOf(...randomChunks(2));
  await origin.operator.publishOk('camera', third);
  for (let days = 0; days < 10; days += 5) await sweepLater(5);
  await origin.close();
  rmSync(metadata, { recursive: true });
  cpSync(backup, metadata, { recursive: true });
  const start = async () => {
    const logged: string[] = [];
    return { ...(await openTestOrigin({ ...testDisk(origin.path), now: origin.clock.now, logged })), logged };
  };
  const restored = await start();
  expect(restored.logged.join('\n')).toContain('published chunks are newer than the metadata');
  await sweepLater(0, restored);
  await sweepLater(1.5, restored);
  expect(thereOf(third.chunks)).toEqual([true, true]);
  await restored.close();
  // Later starts don't notice it, but keep the chunks as well.
  const next = await start();
  expect(next.logged.join('\n')).not.toContain('newer than the metadata');
  await sweepLater(0, next);
  await sweepLater(4, next);
  expect(thereOf(third.chunks)).toEqual([true, true]);
  await sweepLater(2, next);
  expect(thereOf(third.chunks)).toEqual([false, false]);
  expect(thereOf([...first.chunks, ...second.chunks]).every(Boolean)).toBe(true);
  await next.close();
});

it('reads no index where another one is known to be lost', async () => {
  await sweepLater(8);
  const folder = join(origin.path, 'repository/targets/releases');
  const indexes = readdirSync(folder).filter(name => name.endsWith('.caibx'));
  const lost = indexes.find(name => name.endsWith('camera-2.caibx')) ?? '';
  const others = indexes.filter(name => name !== lost);
  rmSync(join(folder, lost));
  rmSync(join(origin.path, 'spare'), { recursive: true });
  await expect(sweepLater(0)).rejects.toMatchObject({ code: 'SITECAST_FILES_LOST' });
  // A file that is read would now be set aside, so this shows that the next sweep reads none.
  for (const name of others) writeFileSync(join(folder, name), 'damaged');
  await expect(sweepLater(1)).rejects.toMatchObject({ data: { target: indexTarget('camera', 2) } });
  expect(others.map(name => existsSync(join(folder, name)))).toEqual(others.map(() => true));
});

it('deletes no chunk of what is published, wherever the process dies in the midst of it', async () => {
  await sweepLater(8);
  await withdrawFirst();
  await sweepLater(0);
  for (let dieAt = 1; ; dieAt += 2 * POINT_STEP) {
    const breaker = new Breaker(origin.path);
    const dying = await openTestOrigin({ ...testDisk(origin.path, breaker), now: origin.clock.now });
    await sweepAll(dying.repository, origin.clock.nowMs - TTL_MS);
    origin.clock.passDays(2);
    await dying.repository.renew();
    breaker.arm(dieAt);
    await sweepAll(dying.repository, origin.clock.nowMs - TTL_MS).catch(() => undefined);
    const { hasDied } = breaker;
    // Deletions that weren't synced are undone; the next sweep repeats them.
    if (hasDied) breaker.lose('everything');
    await dying.close();
    expect(thereOf(second.chunks).every(Boolean)).toBe(true);
    if (!hasDied) break;
  }
  expect(thereOf(first.chunks)).toEqual([true, true, false, false]);
});

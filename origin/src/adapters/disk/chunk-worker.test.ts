import {
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf, chunkIdToHex, compressFrame, MAX_FRAME_BYTES } from '@sitecast/shared/content';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { batchOf, entryOf } from '../../testing/operator.ts';
import { randomChunks, TestClock, temporaryDirectory } from '../../testing/setup.ts';
import { ChunkWorker } from './chunk-worker.ts';
import { publishedPath, stagedPath } from './layout.ts';
import { SyncDisk } from './sync-disk.ts';

const clock = new TestClock();
let directory: ReturnType<typeof temporaryDirectory>;
beforeEach(() => {
  directory = temporaryDirectory();
  for (const path of ['staging/chunks', 'damaged/chunks', 'repository/chunks'])
    mkdirSync(join(directory.path, path), { recursive: true });
});
afterEach(() => directory.remove());

const open = (maxBytes = 2 ** 30) => new ChunkWorker(new SyncDisk(directory.path), maxBytes, clock.now);
const idsOf = (chunks: readonly Buffer[]) =>
  Buffer.concat(chunks.map(chunk => Buffer.from(chunkIdOf(chunk))));
const stagedFile = (chunk: Buffer) => join(directory.path, stagedPath(chunkIdToHex(chunkIdOf(chunk))));
const publishedFile = (chunk: Buffer) => join(directory.path, publishedPath(chunkIdOf(chunk)));
const check = (staging: ChunkWorker, chunks: readonly Buffer[], lengthBytes = 1000) =>
  staging.check({ ids: idsOf(chunks), lengths: Uint32Array.from(chunks, () => lengthBytes) });
function stage(staging: ChunkWorker, batch: Buffer) {
  const count = { stored: 0, known: 0 };
  staging.stage(batch, count);
  return count;
}

it('stages new chunks, counts known ones, and lists missing ones in the requested order', () => {
  const [a, b, c, d] = randomChunks(4);
  if (!a || !b || !c || !d) throw new Error();
  const staging = open();
  expect(stage(staging, batchOf([a, b]))).toEqual({ stored: 2, known: 0 });
  expect(stage(staging, batchOf([b, c, c]))).toEqual({ stored: 1, known: 2 });
  expect(Buffer.from(staging.missing(idsOf([d, a, d, c])))).toEqual(idsOf([d, d]));
  staging.publish(idsOf([a]));
  expect(stage(staging, batchOf([a]))).toEqual({ stored: 0, known: 1 });
  expect(staging.totals().chunks).toBe(2);
  expect(staging.missing(idsOf([a])).length).toBe(0);
});

it('refuses a chunk that does not match its id, names it, and keeps those before it', () => {
  const [good, other] = randomChunks(2);
  if (!good || !other) throw new Error();
  const staging = open();
  const wrong = Buffer.concat(entryOf(chunkIdOf(other), compressFrame(good)));
  const count = { stored: 0, known: 0 };
  expect(() => staging.stage(Buffer.concat([batchOf([good]), wrong]), count)).toThrow(
    expect.objectContaining({
      code: 'SITECAST_CHUNK_MISMATCH',
      data: { id: chunkIdToHex(chunkIdOf(other)) },
    }),
  );
  expect(count).toEqual({ stored: 1, known: 0 });
  expect(readdirSync(join(directory.path, 'staging/chunks'))).toHaveLength(1);
});

it('counts chunks that an earlier process staged only after verifying them, and deletes incomplete ones', () => {
  const chunks = randomChunks(4);
  const [whole, cut, empty, huge] = chunks;
  if (!whole || !cut || !empty || !huge) throw new Error();
  stage(open(), batchOf(chunks));
  truncateSync(stagedFile(cut), 100);
  truncateSync(stagedFile(empty), 0);
  writeFileSync(stagedFile(huge), Buffer.alloc(MAX_FRAME_BYTES + 1));
  writeFileSync(join(directory.path, 'staging/chunks/odd.cacnk'), 'x');
  const staging = open();
  expect(Buffer.from(staging.missing(idsOf(chunks)))).toEqual(idsOf([cut, empty, huge]));
  expect(check(staging, chunks)).toEqual(['staged', 'missing', 'missing', 'missing']);
  expect(readdirSync(join(directory.path, 'staging/chunks'))).toHaveLength(1);
  expect(staging.totals()).toEqual({ chunks: 1, bytes: readFileSync(stagedFile(whole)).length });
});

it('replaces a partial file of an earlier process when the chunk arrives again', () => {
  const [chunk] = randomChunks(1);
  if (!chunk) throw new Error();
  stage(open(), batchOf([chunk]));
  truncateSync(stagedFile(chunk), 10);
  const staging = open();
  expect(stage(staging, batchOf([chunk]))).toEqual({ stored: 1, known: 0 });
  expect(check(staging, [chunk])).toEqual(['staged']);
});

it('notices a published chunk that the disk has damaged, accepts it again, and reports a repair', () => {
  const chunks = randomChunks(2);
  const [good, bad] = chunks;
  if (!good || !bad) throw new Error();
  const earlier = open();
  stage(earlier, batchOf(chunks));
  earlier.publish(idsOf(chunks));
  writeFileSync(publishedFile(bad), compressFrame(good));
  const staging = open();
  expect(check(staging, chunks)).toEqual(['published', 'missing']);
  expect(Buffer.from(staging.missing(idsOf(chunks)))).toEqual(idsOf([bad]));
  expect(stage(staging, batchOf([bad]))).toEqual({ stored: 1, known: 0 });
  expect(check(staging, chunks)).toEqual(['published', 'staged']);
  expect(Buffer.from(staging.repairs(idsOf(chunks)))).toEqual(idsOf([bad]));
  staging.publish(idsOf([bad]));
  expect(check(staging, chunks)).toEqual(['published', 'published']);
  expect(staging.repairs(idsOf(chunks)).length).toBe(0);
});

it('sets a damaged chunk aside when it reads it back, whatever it knew before, also for the next process', () => {
  const chunks = randomChunks(5);
  const [good, flipped, short, empty, gone] = chunks;
  if (!good || !flipped || !short || !empty || !gone) throw new Error();
  const staging = open();
  stage(staging, batchOf(chunks));
  staging.publish(idsOf(chunks));
  expect(check(staging, chunks)).toEqual(chunks.map(() => 'published'));
  const bytes = readFileSync(publishedFile(flipped));
  bytes[500] = (bytes[500] ?? 0) ^ 1;
  writeFileSync(publishedFile(flipped), bytes);
  truncateSync(publishedFile(short), 10);
  truncateSync(publishedFile(empty), 0);
  rmSync(publishedFile(gone));
  const { damaged, readBytes } = staging.inspect(idsOf(chunks));
  expect(Buffer.from(damaged)).toEqual(idsOf([flipped, short, empty]));
  expect(readBytes).toBeGreaterThan(2000);
  expect(readdirSync(join(directory.path, 'damaged/chunks'))).toHaveLength(3);
  const lost = idsOf([flipped, short, empty, gone]);
  for (const process of [staging, open()]) {
    expect(Buffer.from(process.unpublished(idsOf(chunks)))).toEqual(lost);
    expect(Buffer.from(process.missing(idsOf(chunks)))).toEqual(lost);
    expect(process.inspect(idsOf(chunks)).damaged.length).toBe(0);
  }
  const next = open();
  stage(next, batchOf(chunks));
  expect(Buffer.from(next.unpublished(idsOf(chunks)))).toEqual(lost);
  expect(Buffer.from(next.repairs(idsOf(chunks)))).toEqual(idsOf([flipped, short, empty]));
  next.publish(lost);
  expect(check(next, chunks)).toEqual(chunks.map(() => 'published'));
  expect(readdirSync(join(directory.path, 'damaged/chunks'))).toEqual([]);
});

it('knows a damaged chunk on a read-only disk, and treats an unreadable chunk as damaged', () => {
  const [chunk, other] = randomChunks(2);
  if (!chunk || !other) throw new Error();
  const disk = new SyncDisk(directory.path);
  const staging = new ChunkWorker(disk, 2 ** 30, clock.now);
  stage(staging, batchOf([chunk, other]));
  staging.publish(idsOf([chunk, other]));
  rmSync(publishedFile(chunk));
  // A directory can't be read, just as a file on bad sectors can't.
  mkdirSync(publishedFile(chunk));
  rmSync(join(directory.path, 'damaged'), { recursive: true });
  expect(Buffer.from(staging.inspect(idsOf([chunk, other])).damaged)).toEqual(idsOf([chunk]));
  expect(Buffer.from(staging.missing(idsOf([chunk, other])))).toEqual(idsOf([chunk]));
});

it('compares the length in an index with that of the chunk, whether it is staged, published, or known from before', () => {
  const chunks = randomChunks(2);
  const [staged, published] = chunks;
  if (!staged || !published) throw new Error();
  const staging = open();
  stage(staging, batchOf(chunks));
  staging.publish(idsOf([published]));
  for (const lengthBytes of [999, 1000, 1001]) {
    const expected = lengthBytes === 1000 ? ['staged', 'published'] : ['wrongLength', 'wrongLength'];
    expect(check(staging, chunks, lengthBytes)).toEqual(expected);
    expect(check(open(), chunks, lengthBytes)).toEqual(expected);
  }
});

it('never offers a published chunk for undoing, even if it is staged as well', () => {
  const [chunk] = randomChunks(1);
  if (!chunk) throw new Error();
  const first = open();
  stage(first, batchOf([chunk]));
  first.publish(idsOf([chunk]));
  writeFileSync(stagedFile(chunk), compressFrame(chunk));
  const staging = open();
  expect(check(staging, [chunk])).toEqual(['published']);
  expect(staging.totals()).toEqual({ chunks: 0, bytes: 0 });
});

it('undoes an unfinished publication, some chunks of which were never moved', () => {
  const chunks = randomChunks(3);
  const [moved, stayed] = chunks;
  if (!moved || !stayed) throw new Error();
  const staging = open();
  stage(staging, batchOf(chunks));
  staging.publish(idsOf([moved]));
  staging.unpublish(idsOf(chunks));
  expect(check(staging, chunks)).toEqual(['staged', 'staged', 'staged']);
  expect(staging.totals().chunks).toBe(3);
});

it('accepts chunks up to its limit, and accepts more when there is room again', () => {
  const chunks = randomChunks(3);
  const [a, b, c] = chunks;
  if (!a || !b || !c) throw new Error();
  const frameBytes = compressFrame(a).length;
  const staging = open(2 * frameBytes);
  expect(stage(staging, batchOf([a, b]))).toEqual({ stored: 2, known: 0 });
  expect(() => stage(staging, batchOf([c]))).toThrow(
    expect.objectContaining({ code: 'SITECAST_STAGING_FULL' }),
  );
  staging.publish(idsOf([a]));
  expect(stage(staging, batchOf([c]))).toEqual({ stored: 1, known: 0 });
});

it('deletes chunks that were not requested for a long time, counted over restarts', () => {
  const chunks = randomChunks(2);
  const [old, asked] = chunks;
  if (!old || !asked) throw new Error();
  stage(open(), batchOf(chunks));
  for (const chunk of chunks) utimesSync(stagedFile(chunk), 1, 1);
  const staging = open();
  staging.missing(idsOf([asked]));
  expect(staging.prune(clock.nowMs - 1)).toBe(1);
  expect(readdirSync(join(directory.path, 'staging/chunks'))).toHaveLength(1);
  expect(Buffer.from(staging.missing(idsOf(chunks)))).toEqual(idsOf([old]));
});

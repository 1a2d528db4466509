import { createHash } from 'node:crypto';
import { appendFile, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { chunkIdOf, chunkIdToHex, eachId } from '../chunk-id.ts';
import { ChunkCutter, DEFAULT_CHUNK_SIZES } from '../chunking/fastcdc.ts';
import { needsProgram, noise, removeTemporaryDirectories, run, temporaryDirectory } from '../fixtures.ts';
import { BufferPool } from './buffer-pool.ts';
import { type ImageBatch, ImageReader, MAX_READ_BYTES } from './image-reader.ts';

afterAll(removeTemporaryDirectories);

/** How much of an image these tests read at once. It is the minimum, so that there are many pieces. */
const READ = DEFAULT_CHUNK_SIZES.maxBytes;
const NEVER = new AbortController().signal;

async function imageFile(bytes: Uint8Array): Promise<string> {
  const path = join(await temporaryDirectory(), 'image');
  await writeFile(path, bytes);
  return path;
}

/** Reads all of an image; `onBatch` sees each batch before its memory is given back. */
async function readAll(
  path: string,
  onBatch: (batch: ImageBatch, at: number) => void | Promise<void> = () => {},
) {
  const reader = await ImageReader.open(path, DEFAULT_CHUNK_SIZES, READ);
  const blocks = new BufferPool(3, reader.blockBytes);
  const parts: Buffer[] = [];
  const ids: string[] = [];
  let batches = 0;
  try {
    for await (const batch of reader.batches(blocks, NEVER)) {
      await onBatch(batch, batches);
      batches += 1;
      for (const [at, id] of [...eachId(batch.ids)].entries()) {
        const chunk = Buffer.from(batch.bytes.subarray(batch.ends[at - 1] ?? 0, batch.ends[at]));
        expect(chunkIdToHex(chunkIdOf(chunk))).toBe(chunkIdToHex(id));
        ids.push(chunkIdToHex(id));
        parts.push(chunk);
      }
      blocks.release(batch.block);
    }
    return { image: Buffer.concat(parts), ids, ...reader.summary() };
  } finally {
    await reader.close();
  }
}

it.each([1, 16_383, READ - 1, READ, READ + 1, 2 * READ, 2 * READ + 77_777])(
  'reads an image of %i bytes as chunks that add up to it',
  async lengthBytes => {
    const image = noise(lengthBytes, lengthBytes);

    const read = await readAll(await imageFile(image));

    expect(read.image.equals(image)).toBe(true);
    expect(read.lengthBytes).toBe(lengthBytes);
    expect(read.sha256).toEqual(createHash('sha256').update(image).digest());
    expect(read.index.lengthBytes).toBe(lengthBytes);
    expect([...read.index.places()].map(({ id }) => chunkIdToHex(id))).toEqual(read.ids);
    const cutter = new ChunkCutter();
    const ends: number[] = [];
    for (let at = cutter.next(image, 0, lengthBytes); at !== -1; at = cutter.next(image, at, lengthBytes))
      ends.push(at);
    if (cutter.filledBytes > 0) ends.push(lengthBytes);
    expect([...read.index.places()].map(({ offset, lengthBytes }) => offset + lengthBytes)).toEqual(ends);
  },
);

it('reads chunks of the largest size across the pieces that it reads', async () => {
  const image = Buffer.alloc(3 * READ + 5);
  const read = await readAll(await imageFile(image));
  expect(read.image.equals(image)).toBe(true);
  expect(new Set(read.ids).size).toBe(2);
});

it('reads at least the longest chunk at once, and at most its limit', async () => {
  const path = await imageFile(noise(100, 1));
  for (const [readBytes, isTaken] of [
    [READ - 1, false],
    [READ, true],
    [MAX_READ_BYTES, true],
    [MAX_READ_BYTES + 1, false],
  ] as const) {
    const opened = ImageReader.open(path, DEFAULT_CHUNK_SIZES, readBytes);
    expect(await opened.then(reader => reader.close().then(() => true)).catch(() => false)).toBe(isTaken);
  }
});

it('refuses an empty image, a directory and a pipe', async () => {
  await expect(readAll(await imageFile(Buffer.alloc(0)))).rejects.toMatchObject({
    code: 'SITECAST_IMAGE_EMPTY',
  });
  const folder = await temporaryDirectory();
  await expect(readAll(folder)).rejects.toMatchObject({ code: 'SITECAST_NOT_A_FILE' });
  await run('mkfifo', join(folder, 'pipe'));
  await expect(readAll(join(folder, 'pipe'))).rejects.toMatchObject({ code: 'SITECAST_NOT_A_FILE' });
  await expect(readAll(join(folder, 'absent'))).rejects.toMatchObject({ code: 'ENOENT' });
});

it.each([
  ['is written to', (path: string) => writeFile(path, 'x', { flag: 'r+' })],
  ['grows', (path: string) => appendFile(path, noise(1000, 1))],
  ['is cut short', (path: string) => truncate(path, READ)],
  ['is made empty', (path: string) => truncate(path, 0)],
  ['gets another time', (path: string) => utimes(path, 1, 1)],
])('notices an image that %s while it is read', async (_what, change) => {
  const path = await imageFile(noise(3 * READ, 2));
  const reading = readAll(path, async (_batch, at) => {
    if (at === 0) await change(path);
  });
  await expect(reading).rejects.toMatchObject({ code: 'SITECAST_IMAGE_CHANGED', kind: 'conflict' });
});

it('stops for a signal while it waits for memory', async () => {
  const reader = await ImageReader.open(await imageFile(noise(5 * READ, 3)), DEFAULT_CHUNK_SIZES, READ);
  const stop = new AbortController();
  const reason = new Error('called off');
  let batches = 0;
  const reading = (async () => {
    for await (const batch of reader.batches(new BufferPool(2, reader.blockBytes), stop.signal)) {
      batches += batch.ends.length > 0 ? 1 : 0;
      setImmediate(() => stop.abort(reason));
    }
  })();
  await expect(reading).rejects.toBe(reason);
  expect(batches).toBeLessThan(5);
  await reader.close();
});

it('reads a block device to its end', async context => {
  needsProgram(context, 'losetup', '--version');
  const image = noise(READ + 512 * 7, 4);
  const path = await imageFile(image);
  let device = '';
  try {
    device = (await run('losetup', '--find', '--show', '--read-only', path)).trim();
  } catch {
    context.skip('setting up a loop device needs root and a kernel that has them');
  }
  try {
    const read = await readAll(device);
    expect(read.image.equals(image)).toBe(true);
    expect(read.sha256).toEqual(createHash('sha256').update(image).digest());
  } finally {
    await run('losetup', '--detach', device);
  }
});

it('hands out memory in the order of the requests, and no more than it has', async () => {
  const two = new BufferPool(2, 10);
  const first = await two.acquire(NEVER);
  await two.acquire(NEVER);
  const order: number[] = [];
  const stop = new AbortController();
  const waits = [
    two.acquire(NEVER).then(buffer => order.push(0, buffer.byteLength)),
    two.acquire(stop.signal).catch(() => 'gave up'),
    two.acquire(NEVER).then(buffer => order.push(2, buffer.byteLength)),
  ];
  stop.abort(new Error('called off'));
  two.release(first);
  two.release(new ArrayBuffer(10));
  expect((await Promise.all(waits))[1]).toBe('gave up');
  expect(order).toEqual([0, 10, 2, 10]);
  await expect(two.acquire(stop.signal)).rejects.toThrow('called off');
});

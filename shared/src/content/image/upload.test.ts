import { createHash } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, expect, it } from 'vitest';
import { decodeBatch } from '../batch.ts';
import { countIds, eachId } from '../chunk-id.ts';
import { ChunkIndex } from '../chunk-index.ts';
import {
  CASYNC_MAKE,
  needsProgram,
  noise,
  removeTemporaryDirectories,
  run,
  temporaryDirectory,
} from '../fixtures.ts';
import { MAX_BATCH_BYTES, MAX_CHUNK_BYTES, MAX_MISSING_IDS } from '../limits.ts';
import { DirectoryStore } from '../store/directory-store.ts';
import { compressFrame, verifyFrame } from '../zstd.ts';
import { DEFAULT_CHUNK_SIZES } from '../chunking/fastcdc.ts';
import { uploadImage } from './upload-image.ts';
import type { ChunkSink, UploadProgress } from './upload-run.ts';
import { uploadStored } from './upload-stored.ts';

afterAll(removeTemporaryDirectories);

/** Small batches, to have many of them. */
const BATCH = DEFAULT_CHUNK_SIZES.maxBytes;
const MIXED = Buffer.concat([
  noise(3 * BATCH + 1234, 1),
  Buffer.alloc(3 * BATCH, 'text '),
  noise(2 * BATCH, 2),
]);
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest();

/** A receiver that checks what an origin checks, and stores the frames in a folder. */
class Receiver implements ChunkSink {
  readonly store: DirectoryStore;
  readonly asked: number[] = [];
  puts = 0;
  received = 0;
  largest = 0;
  atOnce = 0;
  mostAtOnce = 0;
  readonly #scratch = Buffer.alloc(MAX_CHUNK_BYTES);
  onPut: (puts: number, signal: AbortSignal) => void | Promise<void> = () => {};

  constructor(store: DirectoryStore) {
    this.store = store;
  }

  async missing(ids: Buffer): Promise<Uint8Array> {
    this.asked.push(countIds(ids));
    return this.store.missing(ids);
  }

  async put(batch: Buffer, signal: AbortSignal): Promise<void> {
    this.puts += 1;
    this.atOnce += 1;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.atOnce);
    await this.onPut(this.puts, signal);
    this.largest = Math.max(this.largest, batch.length);
    for (const { id, frame } of decodeBatch(batch)) {
      verifyFrame(id, frame, this.#scratch);
      if (this.store.putFrameNow(id, frame)) this.received += 1;
    }
    this.atOnce -= 1;
  }
}

async function receiver(): Promise<Receiver> {
  return new Receiver(await DirectoryStore.create(join(await temporaryDirectory(), 'chunks')));
}

async function fileOf(bytes: Uint8Array, name = 'image'): Promise<string> {
  const path = join(await temporaryDirectory(), name);
  await writeFile(path, bytes);
  return path;
}

async function assemble(index: ChunkIndex, store: DirectoryStore): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for (const { id, lengthBytes } of index.places())
    parts.push((await store.get(id)).verify(lengthBytes).plain());
  return Buffer.concat(parts);
}

it('sends an image completely, and nothing the second time', async () => {
  const path = await fileOf(MIXED);
  const target = await receiver();
  const progress: UploadProgress[] = [];

  const first = await uploadImage({ batchBytes: BATCH, path, target, onProgress: one => progress.push(one) });

  expect(first.sha256).toEqual(sha256(MIXED));
  expect(first.lengthBytes).toBe(MIXED.length);
  expect((await assemble(first.index, target.store)).equals(MIXED)).toBe(true);
  expect(first.sentChunks).toBe(target.received);
  expect(first.sentBytes).toBeLessThan(MIXED.length * 0.7);
  expect(first.knownChunks).toBe(0);
  expect(Math.max(...target.asked)).toBeLessThanOrEqual(MAX_MISSING_IDS);
  expect(target.largest).toBeLessThanOrEqual(MAX_BATCH_BYTES);
  expect(progress.at(-1)).toEqual({
    lengthBytes: MIXED.length,
    doneBytes: MIXED.length,
    sentBytes: first.sentBytes,
  });

  const second = await uploadImage({ batchBytes: BATCH, path, target });

  expect(second).toMatchObject({ sentChunks: 0, sentBytes: 0, knownChunks: first.sentChunks });
  expect(second.index.encode().equals(first.index.encode())).toBe(true);
});

it('sends a repeated chunk once', async () => {
  const target = await receiver();
  const image = Buffer.concat([Buffer.alloc(20 * BATCH), noise(10, 1)]);
  const sent = await uploadImage({ batchBytes: BATCH, path: await fileOf(image), target });
  expect(sent.index.count).toBeGreaterThan(15);
  expect(sent.sentChunks).toBe(2);
  expect(target.received).toBe(2);
  expect((await assemble(sent.index, target.store)).equals(image)).toBe(true);
});

it('resumes an interrupted upload', async () => {
  const path = await fileOf(MIXED);
  const target = await receiver();
  const stop = new AbortController();
  const reason = new Error('the laptop was closed');
  target.onPut = puts => {
    if (puts === 2) stop.abort(reason);
  };
  await expect(uploadImage({ batchBytes: BATCH, path, target, signal: stop.signal })).rejects.toBe(reason);
  const before = target.received;
  expect(before).toBeGreaterThan(0);

  target.onPut = () => {};
  const second = await uploadImage({ batchBytes: BATCH, path, target });

  expect(second.knownChunks).toBe(before);
  expect((await assemble(second.index, target.store)).equals(MIXED)).toBe(true);
});

it('ends with the first failure of the target, and waits for nothing else', async () => {
  const target = await receiver();
  const failure = new Error('507 from the origin');
  target.onPut = async (puts, signal) => {
    if (puts === 2) throw failure;
    // A put that hangs until it is aborted.
    await delay(600_000, undefined, { signal });
  };
  await expect(uploadImage({ batchBytes: BATCH, path: await fileOf(MIXED), target })).rejects.toBe(failure);
  expect(target.puts).toBeGreaterThanOrEqual(2);
});

it('keeps at most as many batches under way as its memory allows', async () => {
  const target = await receiver();
  target.onPut = () => delay(20);
  const sent = await uploadImage({
    batchBytes: BATCH,
    path: await fileOf(noise(8 * BATCH, 3)),
    target,
    threads: 1,
  });
  expect(target.mostAtOnce).toBeLessThanOrEqual(3);
  expect(target.received).toBe(sent.sentChunks);
});

it('compresses harder at a higher level, with more threads', async () => {
  const path = await fileOf(await readFile(process.execPath).then(bytes => bytes.subarray(0, 4 * BATCH)));
  const fast = await uploadImage({ batchBytes: BATCH, path, target: await receiver(), level: 1 });
  const small = await uploadImage({
    batchBytes: BATCH,
    path,
    target: await receiver(),
    level: 9,
    threads: 2,
  });
  expect(small.sentBytes).toBeLessThan(fast.sentBytes);
});

it.each([0, 20, 3.5])('refuses zstd level %d', async level => {
  const path = await fileOf(MIXED);
  await expect(
    uploadImage({ batchBytes: BATCH, path, target: await receiver(), level }),
  ).rejects.toMatchObject({
    code: 'SITECAST_ZSTD_LEVEL',
  });
});

it('uploads what casync can extract', async context => {
  needsProgram(context, 'casync', '--version');
  const folder = await temporaryDirectory();
  const target = await receiver();
  const { index } = await uploadImage({ batchBytes: BATCH, path: await fileOf(MIXED), target });
  await writeFile(join(folder, 'i.caibx'), index.encode());
  await run('casync', 'extract', `--store=${target.store.root}`, `${folder}/i.caibx`, `${folder}/out`);
  expect((await readFile(join(folder, 'out'))).equals(MIXED)).toBe(true);
});

/** The stored image, one frame per chunk. */
async function stored(image: Buffer): Promise<{ index: ChunkIndex; store: DirectoryStore }> {
  const target = await receiver();
  const { index } = await uploadImage({ batchBytes: BATCH, path: await fileOf(image), target });
  return { index, store: target.store };
}

it('sends frames that casync made unchanged', async context => {
  needsProgram(context, 'casync', '--version');
  const folder = await temporaryDirectory();
  await writeFile(join(folder, 'image'), MIXED);
  await run('casync', ...CASYNC_MAKE, `--store=${folder}/s.castr`, `${folder}/i.caibx`, `${folder}/image`);
  const index = ChunkIndex.decode(await readFile(join(folder, 'i.caibx')));
  const store = await DirectoryStore.open(join(folder, 's.castr'));
  const target = await receiver();

  const sent = await uploadStored({ batchBytes: BATCH, index, store, target });

  expect(sent.sha256).toEqual(sha256(MIXED));
  expect(sent.lengthBytes).toBe(MIXED.length);
  expect((await assemble(index, target.store)).equals(MIXED)).toBe(true);
  for (const id of store.ids()) {
    expect((await readFile(target.store.pathOf(id))).equals(await readFile(store.pathOf(id)))).toBe(true);
  }
  const again = await uploadStored({ batchBytes: BATCH, index, store, target });
  expect(again).toMatchObject({ sentChunks: 0, knownChunks: sent.sentChunks });
  expect(again.sha256).toEqual(sent.sha256);
});

it('hashes a stored image in order, whichever thread finishes first', async () => {
  const image = Buffer.concat([MIXED, noise(2 * BATCH, 4), MIXED]);
  const { index, store } = await stored(image);
  const target = await receiver();
  target.onPut = puts => delay(puts % 2 === 0 ? 0 : 30);
  const sent = await uploadStored({ batchBytes: BATCH, index, store, target, threads: 4 });
  expect(sent.sha256).toEqual(sha256(image));
});

it.each([
  ['is not there', 'SITECAST_CHUNK_NOT_FOUND', (path: string) => rm(path)],
  [
    'holds other bytes',
    'SITECAST_CHUNK_MISMATCH',
    (path: string) => writeFile(path, compressFrame(Buffer.from('x'))),
  ],
  ['is no frame', 'SITECAST_CHUNK_MISMATCH', (path: string) => writeFile(path, 'no frame')],
])('refuses a store in which a chunk %s before it is sent', async (_what, code, damage) => {
  const { index, store } = await stored(MIXED);
  const id = Buffer.from(index.idAt(index.count - 3));
  await damage(store.pathOf(id));
  const target = await receiver();
  await expect(uploadStored({ batchBytes: BATCH, index, store, target })).rejects.toMatchObject({
    code,
    data: { id: id.toString('hex') },
  });
  expect([...target.store.ids()].some(one => Buffer.compare(one, id) === 0)).toBe(false);
});

it('recompresses a frame that is longer than any good encoder makes it', async () => {
  const { index, store } = await stored(noise(300_000, 5));
  const id = index.idAt(0);
  const plain = Buffer.from((await store.get(id)).plain());
  // Raw blocks of 256 bytes each: 3 bytes more for every 256. More than 1/64 isn't taken from any encoder.
  const blocks = Array.from({ length: Math.ceil(plain.length / 256) }, (_, at) => {
    const bytes = plain.subarray(at * 256, at * 256 + 256);
    const isLast = (at + 1) * 256 >= plain.length;
    const head = Buffer.alloc(3);
    head.writeUIntLE(bytes.length * 8 + (isLast ? 1 : 0), 0, 3);
    return Buffer.concat([head, bytes]);
  });
  const odd = Buffer.concat([Buffer.of(0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3), ...blocks]);
  await writeFile(store.pathOf(id), odd);
  const target = await receiver();
  const sent = await uploadStored({ batchBytes: BATCH, index, store, target });
  expect([...eachId(Buffer.from(id))].length).toBe(1);
  expect(sent.sentChunks).toBe(index.count);
  expect((await readFile(target.store.pathOf(id))).length).toBeLessThan(odd.length);
  expect((await target.store.get(id)).verify(plain.length).plain().length).toBe(plain.length);
});

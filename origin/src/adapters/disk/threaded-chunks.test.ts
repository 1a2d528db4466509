import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chunkIdOf, chunkIdToHex, compressFrame } from '@sitecast/shared/content';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { batchOf, entryOf } from '../../testing/operator.ts';
import { randomChunks, temporaryDirectory } from '../../testing/setup.ts';
import { ThreadedChunks } from './threaded-chunks.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let chunks: ThreadedChunks | undefined;
beforeEach(() => {
  directory = temporaryDirectory();
});
afterEach(async () => {
  await chunks?.close();
  await directory.remove();
});

function makeFolders(): void {
  for (const path of ['staging/chunks', 'damaged/chunks', 'repository/chunks'])
    mkdirSync(join(directory.path, path), { recursive: true });
}

async function open(maxStagedBytes = 2 ** 30): Promise<ThreadedChunks> {
  chunks = await ThreadedChunks.open({ root: directory.path, maxStagedBytes });
  return chunks;
}

const idsOf = (plain: readonly Buffer[]) => Buffer.concat(plain.map(chunk => Buffer.from(chunkIdOf(chunk))));

function memoryOf(bytes: Buffer): ArrayBuffer {
  const memory = new ArrayBuffer(bytes.length + 10);
  new Uint8Array(memory).set(bytes);
  return memory;
}

it('does its work in a thread, splits what exceeds a message, and returns the memory', async () => {
  makeFolders();
  const plain = randomChunks(1200, 100);
  const ids = idsOf(plain);
  const threaded = await open();
  const batch = batchOf(plain);
  const memory = memoryOf(batch);
  const outcome = await threaded.stage(memory, batch.length);
  expect(outcome).toMatchObject({ stored: 1200, known: 0, error: undefined });
  expect(memory.byteLength).toBe(0);
  expect(outcome.batch.byteLength).toBe(batch.length + 10);
  const lengths = Uint32Array.from(plain, () => 100);
  expect(new Set(await threaded.check({ ids, lengths }))).toEqual(new Set(['staged']));
  await threaded.publish(ids);
  expect(new Set(await threaded.check({ ids, lengths }))).toEqual(new Set(['published']));
  expect(await threaded.repairs(ids)).toHaveLength(0);
  const inspected = await threaded.inspect(ids);
  expect(inspected).toMatchObject({ damaged: Buffer.alloc(0) });
  expect(inspected.readBytes).toBe(plain.reduce((sum, chunk) => sum + compressFrame(chunk).length, 0));
  await threaded.unpublish(ids.subarray(0, 32 * 600));
  expect(await threaded.totals()).toMatchObject({ chunks: 600 });
  expect(Buffer.from(await threaded.unpublished(ids))).toEqual(ids.subarray(0, 32 * 600));
  const unknown = idsOf(randomChunks(700));
  expect(Buffer.from(await threaded.missing(Buffer.concat([ids, unknown])))).toEqual(unknown);
  expect(await threaded.prune(Date.now() + 60_000)).toBe(600);
});

it('returns errors unchanged, and the memory with them', async () => {
  makeFolders();
  const [good, other] = randomChunks(2);
  if (!good || !other) throw new Error();
  const batch = Buffer.concat([batchOf([good]), ...entryOf(chunkIdOf(other), compressFrame(good))]);
  const outcome = await (await open(10)).stage(memoryOf(batch), batch.length);
  expect(outcome.error).toMatchObject({
    kind: 'noSpace',
    code: 'SITECAST_STAGING_FULL',
    hint: expect.any(String),
  });
  await chunks?.close();
  const mismatch = await (await open()).stage(memoryOf(batch), batch.length);
  expect(mismatch).toMatchObject({ stored: 1, known: 0 });
  expect(mismatch.error).toMatchObject({
    kind: 'untrusted',
    code: 'SITECAST_CHUNK_MISMATCH',
    data: { id: chunkIdToHex(chunkIdOf(other)) },
  });
  expect(mismatch.batch.byteLength).toBe(batch.length + 10);
});

it('reports that its thread has died, and continues with another', async () => {
  // Without its folders the thread can't start.
  await expect(open()).rejects.toMatchObject({ code: 'SITECAST_WORKER_FAILED' });
  makeFolders();
  const threaded = await open();
  expect(await threaded.totals()).toEqual({ chunks: 0, bytes: 0 });
  await threaded.close();
  expect(await threaded.totals()).toEqual({ chunks: 0, bytes: 0 });
});

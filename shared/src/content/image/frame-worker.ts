// Entry of the worker threads that make batches of frames. The memory it works on is moved to it and back.
import { parentPort, workerData } from 'node:worker_threads';
import { SitecastError } from '../../errors.ts';
import { BATCH_HEAD_BYTES, writeBatchHead } from '../batch.ts';
import { CHUNK_ID_BYTES, type ChunkId } from '../chunk-id.ts';
import { DirectoryStore } from '../store/directory-store.ts';
import { chunkMismatch, compressInto, maxFrameBytes, verifyFrame } from '../zstd.ts';
import type { FrameError, FrameReply, FrameTask, FrameWorkerData } from './frame-tasks.ts';

type CompressTask = FrameTask & { kind: 'compress' };
type CollectTask = FrameTask & { kind: 'collect' };

const { level, storeRoot }: FrameWorkerData = workerData;
const store = storeRoot === undefined ? undefined : await DirectoryStore.open(storeRoot);

parentPort?.on('message', (task: FrameTask | null) => {
  if (task === null) {
    parentPort?.close();
    return;
  }
  const { block, body } = task;
  const startedAt = performance.now();
  try {
    const batchBytes = task.kind === 'compress' ? compressAll(task) : collectAll(task);
    reply({ block, body, batchBytes, workMs: performance.now() - startedAt }, [block, body]);
  } catch (error) {
    reply({ error: describe(error) }, []);
  }
});

function reply(answer: FrameReply, moved: ArrayBuffer[]): void {
  parentPort?.postMessage(answer, moved);
}

function compressAll({ block, body, ids, wanted, plainAt, ends }: CompressTask): number {
  const batch = Buffer.from(body);
  let at = 0;
  for (const [chunk, end] of ends.entries()) {
    if (wanted[chunk] === 0) continue;
    const start = ends[chunk - 1] ?? 0;
    const plain = new Uint8Array(block, plainAt + start, end - start);
    at += append(batch, at, idAt(ids, chunk), target => compressInto(target, plain, level));
  }
  return at;
}

function collectAll({ block, body, ids, wanted, lengths }: CollectTask): number {
  const batch = Buffer.from(body);
  let at = 0;
  let plainAt = 0;
  for (const [chunk, lengthBytes] of lengths.entries()) {
    const id = idAt(ids, chunk);
    const plain = Buffer.from(block, plainAt, lengthBytes);
    const appendedBytes = append(batch, at, id, target => collect(id, plain, target));
    plainAt += lengthBytes;
    // A frame that isn't wanted is overwritten by the next one.
    if (wanted[chunk] === 1) at += appendedBytes;
  }
  return at;
}

/** Adds to a batch what `writeFrame` makes. @returns by how many bytes the batch has grown */
function append(batch: Buffer, at: number, id: ChunkId, writeFrame: (target: Buffer) => number): number {
  const frameBytes = writeFrame(batch.subarray(at + BATCH_HEAD_BYTES));
  writeBatchHead(batch, at, id, frameBytes);
  return BATCH_HEAD_BYTES + frameBytes;
}

/** Reads a chunk's frame into `target` and its content into `plain`. @returns length of the frame, in bytes */
function collect(id: ChunkId, plain: Buffer, target: Buffer): number {
  if (store === undefined) throw new Error('this worker thread was given no store');
  const frameBytes = store.readFrameNow(id, target);
  const plainBytes = verifyFrame(id, target.subarray(0, frameBytes), plain);
  if (plainBytes !== plain.length) throw chunkMismatch(id);
  // The batch has room by zstd's bound. A longer frame was made by an unusual encoder.
  return frameBytes <= maxFrameBytes(plain.length) ? frameBytes : compressInto(target, plain, level);
}

function idAt(ids: Uint8Array, chunk: number): ChunkId {
  return ids.subarray(chunk * CHUNK_ID_BYTES, (chunk + 1) * CHUNK_ID_BYTES);
}

function describe(error: unknown): FrameError {
  if (error instanceof SitecastError) {
    const { kind, code, message, data } = error;
    return { kind, code, message, data };
  }
  const message = error instanceof Error ? error.message : String(error);
  return {
    kind: 'failed',
    code: 'SITECAST_WORKER_FAILED',
    message: `making frames failed: ${message}`,
    data: {},
  };
}

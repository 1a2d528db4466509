// Entry of the worker threads that make batches of frames. The memory it works on is moved to it and back.
import { parentPort, workerData } from 'node:worker_threads';
import { SitecastError } from '../../errors.ts';
import { BATCH_HEAD_BYTES, writeBatchHead } from '../batch.ts';
import { CHUNK_ID_BYTES, type ChunkId } from '../chunk-id.ts';
import { DirectoryStore } from '../store/directory-store.ts';
import { chunkMismatch, compressInto, maxFrameBytes, verifyFrame } from '../zstd.ts';
import type {
  CollectTask,
  CompressTask,
  FrameError,
  FrameReply,
  FrameTask,
  FrameWorkerData,
} from './frame-tasks.ts';

const { level, storeRoot }: FrameWorkerData = workerData;
const store = storeRoot === undefined ? undefined : await DirectoryStore.open(storeRoot);

parentPort?.on('message', (task: FrameTask) => {
  const { block, body } = task;
  try {
    const batchBytes = task.kind === 'compress' ? compressAll(task) : collectAll(task);
    reply({ block, body, batchBytes }, [block, body]);
  } catch (error) {
    reply({ error: describe(error) }, []);
  }
});

function reply(answer: FrameReply, moved: ArrayBuffer[]): void {
  parentPort?.postMessage(answer, moved);
}

function compressAll({ block, body, bounds, ids }: CompressTask): number {
  const batch = Buffer.from(body);
  let at = 0;
  for (let chunk = 0; chunk < bounds.length / 2; chunk++) {
    const start = bounds[chunk * 2] ?? 0;
    const plain = new Uint8Array(block, start, (bounds[chunk * 2 + 1] ?? 0) - start);
    const frameBytes = compressInto(batch.subarray(at + BATCH_HEAD_BYTES), plain, level);
    writeBatchHead(batch, at, idAt(ids, chunk), frameBytes);
    at += BATCH_HEAD_BYTES + frameBytes;
  }
  return at;
}

function collectAll({ block, body, ids, lengths, wanted }: CollectTask): number {
  const batch = Buffer.from(body);
  let at = 0;
  let plainAt = 0;
  for (const [chunk, lengthBytes] of lengths.entries()) {
    const id = idAt(ids, chunk);
    const plain = Buffer.from(block, plainAt, lengthBytes);
    const frameBytes = collect(id, plain, batch.subarray(at + BATCH_HEAD_BYTES));
    plainAt += lengthBytes;
    if (wanted[chunk] === 0) continue;
    writeBatchHead(batch, at, id, frameBytes);
    at += BATCH_HEAD_BYTES + frameBytes;
  }
  return at;
}

/** Reads a chunk's frame into `target` and its content into `plain`. @returns length of the frame, in bytes */
function collect(id: ChunkId, plain: Buffer, target: Buffer): number {
  if (store === undefined) throw new Error('this worker thread was given no store');
  const frameBytes = store.readFrameNow(id, target);
  const plainBytes = verifyFrame(id, target.subarray(0, frameBytes), plain);
  if (plainBytes !== plain.length) throw chunkMismatch(id);
  // Room in the batch is reckoned by zstd's bound; a frame beyond that was made by an odd encoder.
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

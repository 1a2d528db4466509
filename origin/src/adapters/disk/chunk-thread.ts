// Entry of the thread that looks after chunks: it may wait for the disk while the main thread serves.
import { parentPort, workerData } from 'node:worker_threads';
import { SitecastError } from '@sitecast/shared/errors';
import type { ChunkReply, ChunkResults, ChunkTask, ChunkThreadData, ThreadError } from './chunk-tasks.ts';
import { ChunkWorker } from './chunk-worker.ts';
import { SyncDisk } from './sync-disk.ts';

const { root, maxStagedBytes }: ChunkThreadData = workerData;
const worker = new ChunkWorker(new SyncDisk(root), maxStagedBytes, Date.now);

parentPort?.on('message', (task: ChunkTask | null) => {
  if (task === null) {
    parentPort?.close();
    return;
  }
  let reply: ChunkReply;
  try {
    reply = { result: carryOut(task) };
  } catch (error) {
    reply = { error: describe(error) };
  }
  parentPort?.postMessage(reply, task.name === 'stage' ? [task.batch] : []);
});

function carryOut(task: ChunkTask): ChunkResults[keyof ChunkResults] {
  switch (task.name) {
    case 'missing':
      return worker.missing(task.ids);
    case 'unpublished':
      return worker.unpublished(task.ids);
    case 'inspect':
      return worker.inspect(task.ids);
    case 'repairs':
      return worker.repairs(task.ids);
    case 'publish':
      worker.publish(task.ids);
      return undefined;
    case 'unpublish':
      worker.unpublish(task.ids);
      return undefined;
    case 'stage':
      return stage(task.batch, task.lengthBytes);
    case 'check':
      return worker.check(task.list);
    case 'prune':
      return worker.prune(task.beforeMs);
    case 'removeUnused':
      return worker.removeUnused(task.ids, task.beforeMs);
    default:
      return worker.totals();
  }
}

function stage(batch: ArrayBuffer, lengthBytes: number): ChunkResults['stage'] {
  const count = { stored: 0, known: 0 };
  let error: ThreadError | undefined;
  try {
    worker.stage(new Uint8Array(batch, 0, lengthBytes), count);
  } catch (thrown) {
    error = describe(thrown);
  }
  return { batch, ...count, error };
}

function describe(error: unknown): ThreadError {
  if (error instanceof SitecastError) {
    const { kind, code, message, hint, data } = error;
    return { kind, code, message, hint, data };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { kind: 'failed', code: 'SITECAST_INTERNAL', message, hint: undefined, data: {} };
}

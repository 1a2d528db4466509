import type { ChunkList } from '../../../staging/ports.ts';
import { ChunkWorker } from '../chunk-worker.ts';
import type { LocalChunks } from '../chunks.ts';
import type { SyncFiles } from '../files.ts';

/** Works on chunks in the test's own thread, so that a test can stand between it and the disk. */
export function localChunks(files: SyncFiles, maxBytes: number, now: () => number): LocalChunks {
  const worker = new ChunkWorker(files, maxBytes, now);
  return {
    missing: async ids => worker.missing(ids),
    unpublished: async ids => worker.unpublished(ids),
    inspect: async ids => worker.inspect(ids),
    check: async (list: ChunkList) => worker.check(list),
    repairs: async ids => worker.repairs(ids),
    publish: async ids => worker.publish(ids),
    unpublish: async ids => worker.unpublish(ids),
    prune: async beforeMs => worker.prune(beforeMs),
    removeUnused: async (ids, beforeMs) => worker.removeUnused(ids, beforeMs),
    totals: async () => worker.totals(),
    async stage(batch, lengthBytes) {
      const count = { stored: 0, known: 0 };
      let error: Error | undefined;
      try {
        worker.stage(new Uint8Array(batch, 0, lengthBytes), count);
      } catch (thrown) {
        error = thrown instanceof Error ? thrown : new Error(String(thrown));
      }
      return { batch, ...count, error };
    },
  };
}

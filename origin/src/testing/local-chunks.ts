import { ChunkStaging } from '../staging/chunk-staging.ts';
import type { ChunkList, Chunks } from '../staging/chunks.ts';
import type { SyncFiles } from '../storage/sync-files.ts';

/** `Chunks` in the test's own thread, so that a test can stand between it and the disk. */
export function localChunks(files: SyncFiles, maxBytes: number, now: () => number): Chunks {
  const staging = new ChunkStaging(files, maxBytes, now);
  return {
    missing: async ids => staging.missing(ids),
    unpublished: async ids => staging.unpublished(ids),
    inspect: async ids => staging.inspect(ids),
    check: async (list: ChunkList) => staging.check(list),
    repairs: async ids => staging.repairs(ids),
    publish: async ids => staging.publish(ids),
    unpublish: async ids => staging.unpublish(ids),
    removeOlderThan: async beforeMs => staging.removeOlderThan(beforeMs),
    totals: async () => staging.totals(),
    async stage(batch, lengthBytes) {
      const count = { stored: 0, known: 0 };
      let error: Error | undefined;
      try {
        staging.stage(new Uint8Array(batch, 0, lengthBytes), count);
      } catch (thrown) {
        error = thrown instanceof Error ? thrown : new Error(String(thrown));
      }
      return { batch, ...count, error };
    },
  };
}

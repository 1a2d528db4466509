import {
  BATCH_HEAD_BYTES,
  CHUNK_ID_BYTES,
  type ChunkId,
  type ChunkStore,
  eachId,
  MAX_MISSING_IDS,
  writeBatchHead,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import type { Chunks } from '../staging/chunks.ts';
import type { Mirror } from './mirror-copy.ts';

const CHUNKS_AT_ONCE = 8;

/**
 * Stages those of the chunks that are neither published nor staged, as far as a mirror has them.
 * @param mirrors in the order in which they're asked
 */
export async function stageChunks(
  chunks: Chunks,
  ids: Uint8Array,
  mirrors: readonly Mirror[],
): Promise<void> {
  const stores = mirrors.map(({ chunks: store }) => store);
  const limit = pLimit(CHUNKS_AT_ONCE);
  for (let at = 0; at < ids.length; at += MAX_MISSING_IDS * CHUNK_ID_BYTES) {
    const missing = await chunks.missing(ids.subarray(at, at + MAX_MISSING_IDS * CHUNK_ID_BYTES));
    await Promise.all([...eachId(missing)].map(id => limit(() => stageChunk(chunks, id, stores))));
  }
}

async function stageChunk(chunks: Chunks, id: ChunkId, stores: readonly ChunkStore[]): Promise<void> {
  for (const store of stores) {
    try {
      const frame = (await store.get(id)).frame();
      const memory = new ArrayBuffer(BATCH_HEAD_BYTES + frame.length);
      const batch = Buffer.from(memory);
      writeBatchHead(batch, 0, id, frame.length);
      batch.set(frame, BATCH_HEAD_BYTES);
      const { error } = await chunks.stage(memory, batch.length);
      if (error === undefined) return;
    } catch (error) {
      // The next one may have it.
      if (!(error instanceof SitecastError)) throw error;
    }
  }
}

import {
  BATCH_HEAD_BYTES,
  CHUNK_ID_BYTES,
  type ChunkId,
  type ChunkStore,
  eachId,
  failover,
  MAX_MISSING_IDS,
  verifying,
  writeBatchHead,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import pLimit from 'p-limit';
import type { ChunkStaging } from '../staging/ports.ts';
import type { Mirror } from './mirror-copy.ts';

const CHUNKS_AT_ONCE = 8;

/** A mirror that could not be reached is asked last for so long. */
const REST_MS = 10 * 60_000;

/** The chunks of all mirrors, which are asked in their order. To be made once for all that is fetched. */
export function chunksOf(mirrors: readonly Mirror[]): ChunkStore {
  return failover(
    mirrors.map(({ chunks }) => verifying(chunks)),
    { restMs: REST_MS },
  );
}

/** Stages the chunks that are neither published nor staged, as far as a mirror has them. */
export async function stageChunks(chunks: ChunkStaging, ids: Uint8Array, store: ChunkStore): Promise<void> {
  const limit = pLimit(CHUNKS_AT_ONCE);
  for (let at = 0; at < ids.length; at += MAX_MISSING_IDS * CHUNK_ID_BYTES) {
    const missing = await chunks.missing(ids.subarray(at, at + MAX_MISSING_IDS * CHUNK_ID_BYTES));
    await Promise.all([...eachId(missing)].map(id => limit(() => stageChunk(chunks, id, store))));
  }
}

async function stageChunk(chunks: ChunkStaging, id: ChunkId, store: ChunkStore): Promise<void> {
  try {
    const frame = (await store.get(id)).frame();
    const memory = new ArrayBuffer(BATCH_HEAD_BYTES + frame.length);
    const batch = Buffer.from(memory);
    writeBatchHead(batch, 0, id, frame.length);
    batch.set(frame, BATCH_HEAD_BYTES);
    await chunks.stage(memory, batch.length);
  } catch (error) {
    // A chunk that no mirror has is found missing afterwards.
    if (!(error instanceof SitecastError)) throw error;
  }
}

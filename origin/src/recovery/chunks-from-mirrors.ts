import {
  BATCH_HEAD_BYTES,
  CHUNK_ID_BYTES,
  type ChunkId,
  chunkIdToHex,
  type ChunkStore,
  eachId,
  failover,
  MAX_MISSING_IDS,
  verifying,
  writeBatchHead,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { forEachBounded } from '@sitecast/shared/async';
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

/**
 * Stages the chunks that are neither published nor staged, as far as a mirror has them.
 * @param lengths by id in hexadecimal digits, how long a chunk may be when plain; others may have any length
 * @throws SITECAST_STAGING_FULL, SITECAST_NO_SPACE (noSpace): a chunk for which there is no room isn't lost
 */
export async function stageChunks(
  chunks: ChunkStaging,
  ids: Uint8Array,
  { store, lengths }: { store: ChunkStore; lengths?: ReadonlyMap<string, number> | undefined },
): Promise<void> {
  for (let at = 0; at < ids.length; at += MAX_MISSING_IDS * CHUNK_ID_BYTES) {
    const missing = await chunks.missing(ids.subarray(at, at + MAX_MISSING_IDS * CHUNK_ID_BYTES));
    await forEachBounded(eachId(missing), CHUNKS_AT_ONCE, async id => {
      const frame = await frameOf(id, store, lengths?.get(chunkIdToHex(id)));
      if (frame) await stageFrame(chunks, id, frame);
    });
  }
}

async function stageFrame(chunks: ChunkStaging, id: ChunkId, frame: Uint8Array): Promise<void> {
  const memory = new ArrayBuffer(BATCH_HEAD_BYTES + frame.length);
  const batch = Buffer.from(memory);
  writeBatchHead(batch, 0, id, frame.length);
  batch.set(frame, BATCH_HEAD_BYTES);
  const { error } = await chunks.stage(memory, batch.length);
  if (error) throw error;
}

/** A chunk that no mirror has is found missing afterwards. */
async function frameOf(
  id: ChunkId,
  store: ChunkStore,
  lengthBytes: number | undefined,
): Promise<Uint8Array | undefined> {
  try {
    return (await store.get(id, lengthBytes === undefined ? {} : { lengthBytes })).frame();
  } catch (error) {
    if (!(error instanceof SitecastError)) throw error;
    return undefined;
  }
}

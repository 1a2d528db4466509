export { type BatchEntry, decodeBatch } from './batch.ts';
export { Chunk } from './chunk.ts';
export {
  CHUNK_ID_BYTES,
  type ChunkId,
  chunkIdFromHex,
  chunkIdOf,
  chunkIdToHex,
  chunkPath,
  countIds,
  eachId,
  sameChunkId,
  sha256,
} from './chunk-id.ts';
export { ChunkIdSet } from './chunk-id-set.ts';
export { ChunkIndex, ChunkIndexBuilder, type ChunkPlace, type ChunkSizes } from './chunk-index.ts';
export {
  MAX_BATCH_BYTES,
  MAX_CHUNK_BYTES,
  MAX_FRAME_BYTES,
  MAX_INDEX_BYTES,
  MAX_MISSING_IDS,
} from './limits.ts';
export type { ChunkRequest, ChunkStore, WritableChunkStore } from './store/chunk-store.ts';
export { DirectoryStore } from './store/directory-store.ts';
export {
  compressFrame,
  DEFAULT_ZSTD_LEVEL,
  decompressAtMost,
  decompressExactly,
  MAX_ZSTD_LEVEL,
  MIN_ZSTD_LEVEL,
  verifyFrame,
  ZSTD_LIBRARY,
} from './zstd.ts';

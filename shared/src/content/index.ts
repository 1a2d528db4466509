export { BATCH_HEAD_BYTES, batchesOf, type BatchEntry, decodeBatch, writeBatchHead } from './batch.ts';
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
export {
  ChunkIndex,
  ChunkIndexBuilder,
  type ChunkPlace,
  type ChunkSizes,
  MAX_INDEX_CHUNKS,
} from './chunk-index.ts';
export { ChunkCutter, checkChunkSizes, DEFAULT_CHUNK_SIZES } from './chunking/fastcdc.ts';
export { readIndexed } from './indexed-bytes.ts';
export { type ImageSummary, openImage } from './image/image-reader.ts';
export { type UploadImageOptions, uploadImage } from './image/upload-image.ts';
export type { ChunkSink, UploadCounts, UploadOptions, UploadProgress } from './image/upload-run.ts';
export { type UploadStoredOptions, uploadStored } from './image/upload-stored.ts';
export {
  MAX_BATCH_BYTES,
  MAX_BATCH_CHUNKS,
  MAX_CHUNK_BYTES,
  FRAME_OVERHEAD_BYTES,
  longestFrameBytes,
  MAX_FRAME_BYTES,
  MAX_INDEX_BYTES,
  MAX_MISSING_IDS,
} from './limits.ts';
export {
  chunkNotFound,
  type ChunkRequest,
  type ChunkStore,
  isNotFound,
  isRefusal,
  type WritableChunkStore,
} from './store/chunk-store.ts';
export { DirectoryStore, type DirectoryStoreOptions } from './store/directory-store.ts';
export { HttpStore, type HttpStoreOptions } from './store/http-store.ts';
export {
  type FailoverOptions,
  failover,
  SourceSelector,
  type SourceSelectorOptions,
  isWrongBytes,
} from './store/source-selector.ts';
export { coalescing, compacting, counted, firstHolding, verifying, whileOpen } from './store/wrappers.ts';
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

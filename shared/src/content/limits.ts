/** Bounds of the content layer. docs/LIMITS.md lists them; each has a test at the bound. */

/** The longest chunk that is stored, sent or described, in plain bytes. */
export const MAX_CHUNK_BYTES = 1024 * 1024;

/**
 * The longest zstd frame of one chunk. Incompressible data grows by 3 bytes a block (at most 128 KiB each); an encoder
 * that flushes often adds more. Four times zstd's own bound for a MAX_CHUNK_BYTES input leaves room for that.
 */
export const MAX_FRAME_BYTES = MAX_CHUNK_BYTES + 16 * 1024;

/** A frame is at most that much longer than its chunk, in bytes, but for encoders that flush often. */
export const FRAME_OVERHEAD_BYTES = 256;

/**
 * The longest frame of a chunk of that plain length, in bytes: as MAX_FRAME_BYTES, four times what zstd's own
 * blocks add, and FRAME_OVERHEAD_BYTES.
 */
export function longestFrameBytes(plainBytes: number): number {
  return Math.min(MAX_FRAME_BYTES, plainBytes + Math.ceil(plainBytes / 64) + FRAME_OVERHEAD_BYTES);
}

/**
 * Most blocks of one frame: one for each 128 bytes of the longest chunk. zstd makes at most 196 of each 128 KiB; an encoder that flushes after
 * fewer than 192 bytes makes frames beyond `longestFrameBytes`.
 */
export const MAX_FRAME_BLOCKS = MAX_CHUNK_BYTES / 128;

/** The longest window a frame may ask a decoder to keep: what RFC 8878 (3.1.1.1.2) wants every decoder to support. */
export const MAX_FRAME_WINDOW_BYTES = 8 * 1024 * 1024;

/** The longest chunk index (.caibx), in bytes: about 1.6 million chunks, 100 GiB at the default chunk size. */
export const MAX_INDEX_BYTES = 64 * 1024 * 1024;

/** The longest body of one upload request, in bytes. */
export const MAX_BATCH_BYTES = 8 * 1024 * 1024;

/** Most chunk ids in one question "which of these are missing?". */
export const MAX_MISSING_IDS = 4096;

/** Most chunks in one upload request. */
export const MAX_BATCH_CHUNKS = 4096;

/** The smallest minimum chunk size that the chunker takes: smaller chunks would make the index a burden. */
export const MIN_CHUNK_SIZE_BYTES = 4 * 1024;

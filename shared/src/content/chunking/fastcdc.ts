import { createHash } from 'node:crypto';
import { SitecastError } from '../../errors.ts';
import type { ChunkSizes } from '../chunk-index.ts';
import { MAX_CHUNK_BYTES, MIN_CHUNK_SIZE_BYTES } from '../limits.ts';

// FastCDC: W. Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data Deduplication",
// USENIX ATC 2016 (gear hash, cut-point skipping, normalised chunking: sections 3.3 to 3.5), and W. Xia et al., "The
// Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 31 (2020).
//
// Choices where the papers leave room; each of them decides cut points, so none may change without a new name:
// - The hash has 32 bits, `hash = (hash << 1) + gear[byte] mod 2^32`, so it depends on the last 32 bytes. JavaScript
//   engines keep that in one register.
// - A cut is where the topmost bits of the hash are all zero: those depend on the most bytes. Normalisation level 2:
//   log2(avg) + 2 bits up to the average size, log2(avg) - 2 bits beyond it.
// - The hash begins as zero at `minBytes` into each chunk; the byte that completes a match belongs to the chunk before.
// - gear[b] = the first 4 bytes, little-endian, of SHA-256("sitecast/fastcdc/gear/1" followed by the byte b).

/** Normalisation level: how many bits more (before) and fewer (behind the average size) a cut takes. */
const NORMALISATION_BITS = 2;
const HASH_BITS = 32;

const gear = makeGear();

export const DEFAULT_CHUNK_SIZES: ChunkSizes = {
  minBytes: 16 * 1024,
  avgBytes: 64 * 1024,
  maxBytes: 256 * 1024,
};

/**
 * Checks sizes for the chunker: MIN_CHUNK_SIZE_BYTES ≤ min ≤ avg ≤ max ≤ MAX_CHUNK_BYTES, avg a power of two.
 * @throws SITECAST_CHUNK_SIZES
 */
export function checkChunkSizes(sizes: ChunkSizes): ChunkSizes {
  const { minBytes, avgBytes, maxBytes } = sizes;
  const areUsable =
    [minBytes, avgBytes, maxBytes].every(Number.isInteger) &&
    minBytes >= MIN_CHUNK_SIZE_BYTES &&
    minBytes <= avgBytes &&
    avgBytes <= maxBytes &&
    maxBytes <= MAX_CHUNK_BYTES &&
    Number.isInteger(Math.log2(avgBytes));
  if (areUsable) return sizes;
  throw new SitecastError(
    'badInput',
    'SITECAST_CHUNK_SIZES',
    `cannot chunk by the sizes ${minBytes}:${avgBytes}:${maxBytes}`,
    {
      hint: `Minimum, average and maximum rise from ${MIN_CHUNK_SIZE_BYTES} to ${MAX_CHUNK_BYTES} bytes; the average is a power of two.`,
      data: { ...sizes },
    },
  );
}

/**
 * Finds the ends of chunks in a stream. It remembers how far into a chunk it is, not the bytes: blocks may begin and end
 * anywhere, each byte is looked at once, nothing is copied.
 */
export class ChunkCutter {
  readonly #sizes: ChunkSizes;
  readonly #maskBefore: number;
  readonly #maskBehind: number;
  #filledBytes = 0;
  #hash = 0;

  /** @throws SITECAST_CHUNK_SIZES */
  constructor(sizes: ChunkSizes = DEFAULT_CHUNK_SIZES) {
    this.#sizes = checkChunkSizes(sizes);
    const bits = Math.log2(sizes.avgBytes);
    this.#maskBefore = topBits(bits + NORMALISATION_BITS);
    this.#maskBehind = topBits(bits - NORMALISATION_BITS);
  }

  /** How many bytes of a chunk that hasn't ended yet it has seen. */
  get filledBytes(): number {
    return this.#filledBytes;
  }

  /**
   * Goes on with the stream's next bytes, `block[from]` to `block[to - 1]`, up to the end of a chunk.
   * @returns where in the block the chunk ends (exclusive): go on from there; -1 when it doesn't end in these bytes
   */
  next(block: Uint8Array, from: number, to: number): number {
    const { minBytes, avgBytes, maxBytes } = this.#sizes;
    let at = from;
    while (at < to) {
      const filledBytes = this.#filledBytes;
      if (filledBytes < minBytes) {
        const until = Math.min(to, at + minBytes - filledBytes);
        this.#filledBytes = filledBytes + until - at;
        at = until;
        continue;
      }
      const isBeforeAvg = filledBytes < avgBytes;
      const until = Math.min(to, at + (isBeforeAvg ? avgBytes : maxBytes) - filledBytes);
      const cut = scan(block, at, until, this.#hash, isBeforeAvg ? this.#maskBefore : this.#maskBehind);
      if (cut !== -1) return this.#endAt(cut);
      this.#hash = scannedHash;
      this.#filledBytes = filledBytes + until - at;
      at = until;
      if (this.#filledBytes === maxBytes) return this.#endAt(at);
    }
    return -1;
  }

  #endAt(at: number): number {
    this.#filledBytes = 0;
    this.#hash = 0;
    return at;
  }
}

/** Second result of `scan`: the hash behind the last byte, where there was no cut. */
let scannedHash = 0;

/**
 * The inner loop, with one place that calls it: as a method called from two, it ran at less than half the speed once the
 * optimiser had merged both copies into the caller.
 * @returns where the first byte that completes a match ends, or -1
 */
function scan(block: Uint8Array, from: number, to: number, startHash: number, mask: number): number {
  let hash = startHash;
  for (let at = from; at < to; at++) {
    hash = ((hash << 1) + (gear[block[at] ?? 0] ?? 0)) | 0;
    if ((hash & mask) === 0) return at + 1;
  }
  scannedHash = hash;
  return -1;
}

function topBits(count: number): number {
  return -1 << (HASH_BITS - count);
}

function makeGear(): Int32Array {
  return Int32Array.from({ length: 256 }, (_, byte) =>
    createHash('sha256')
      .update('sitecast/fastcdc/gear/1')
      .update(Uint8Array.of(byte))
      .digest()
      .readInt32LE(0),
  );
}

import { type ErrorCode, SitecastError } from '../errors.ts';
import { CHUNK_ID_BYTES, type ChunkId } from './chunk-id.ts';
import { ChunkNumbers } from './chunk-numbers.ts';
import { MAX_CHUNK_BYTES, MAX_INDEX_BYTES } from './limits.ts';

// The casync .caibx format (casync's src/caformat.h), little-endian:
//   header   u64 size = 48, u64 type, u64 feature flags, u64 min, u64 avg, u64 max chunk size
//   table    u64 size = 2^64-1, u64 type, then per chunk: u64 end offset, 32 bytes id
//   tail     u64 0, u64 0, u64 48 (where the header ends), u64 size of table with head and tail, u64 marker
const HEADER_BYTES = 48;
const TABLE_HEAD_BYTES = 16;
const ITEM_BYTES = 8 + CHUNK_ID_BYTES;
const TAIL_BYTES = 40;
const ITEMS_AT = HEADER_BYTES + TABLE_HEAD_BYTES;

const INDEX_TYPE = 0x96824d9c7b129ff9n;
const TABLE_TYPE = 0xe75b9e112f17417dn;
const TAIL_MARKER = 0x4b4f050e5549ecd1n;
const UNKNOWN_SIZE = 0xffffffffffffffffn;

const FEATURE_SHA512_256 = 0x2000000000000000n;
const FEATURE_EXCLUDE_FILE = 0x1000000000000000n;
const FEATURE_EXCLUDE_SUBMOUNTS = 0x4000000000000000n;
const FEATURE_EXCLUDE_NODUMP = 0x8000000000000000n;
/** What casync may set for the index of one file; the lower bits describe directory trees (.caidx). */
const KNOWN_FEATURES = FEATURE_EXCLUDE_FILE | FEATURE_EXCLUDE_SUBMOUNTS | FEATURE_EXCLUDE_NODUMP;
/** What `casync make --digest=sha256` sets for a file. */
const WRITTEN_FEATURES = FEATURE_EXCLUDE_FILE | FEATURE_EXCLUDE_NODUMP;

/** Chunk lengths that a chunker keeps to, in bytes; the last chunk of an image may be shorter than `minBytes`. */
export interface ChunkSizes {
  readonly minBytes: number;
  readonly avgBytes: number;
  readonly maxBytes: number;
}

/** One chunk's place in an image: `[offset, offset + lengthBytes)`. `id` is a view into the index. */
export interface ChunkPlace {
  readonly id: ChunkId;
  readonly offset: number;
  readonly lengthBytes: number;
}

/**
 * The ordered list of the chunks that make up an image, read and written as casync's `.caibx`. The encoded bytes *are*
 * the representation: 40 bytes a chunk, ids are views into them, and encoding again gives the same bytes.
 */
export class ChunkIndex {
  readonly sizes: ChunkSizes;
  readonly count: number;
  /** Length of the image, in bytes. */
  readonly lengthBytes: number;
  readonly #encoded: Buffer;
  /** Made at the first question: most indexes are only read in order. */
  #numbers: ChunkNumbers | undefined;

  private constructor(encoded: Buffer, sizes: ChunkSizes) {
    this.#encoded = encoded;
    this.sizes = sizes;
    this.count = (encoded.length - ITEMS_AT - TAIL_BYTES) / ITEM_BYTES;
    this.lengthBytes = this.endOf(this.count - 1);
  }

  /**
   * Reads a `.caibx` and checks all of it; the bytes are kept, not copied.
   * @throws SITECAST_INDEX_… (see docs/ERRORS.md), one code a defect
   */
  static decode(bytes: Uint8Array): ChunkIndex {
    if (bytes.length > MAX_INDEX_BYTES)
      throw new SitecastError(
        'tooLarge',
        'SITECAST_INDEX_TOO_LARGE',
        `a chunk index holds at most ${MAX_INDEX_BYTES} bytes`,
        { data: { lengthBytes: bytes.length } },
      );
    const encoded = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    checkHead(encoded);
    const sizes = readSizes(encoded);
    checkTable(encoded);
    checkOffsets(encoded, sizes.maxBytes);
    return new ChunkIndex(encoded, sizes);
  }

  /** The `.caibx` bytes: not to be changed. */
  encode(): Buffer {
    return this.#encoded;
  }

  /** Id of chunk number `at`, counted from 0: a view into the index. */
  idAt(at: number): ChunkId {
    const from = this.#itemAt(at) + 8;
    return this.#encoded.subarray(from, from + CHUNK_ID_BYTES);
  }

  startOf(at: number): number {
    return at === 0 ? 0 : this.endOf(at - 1);
  }

  endOf(at: number): number {
    return readOffset(this.#encoded, this.#itemAt(at));
  }

  lengthOf(at: number): number {
    return this.endOf(at) - this.startOf(at);
  }

  /** Number of the chunk with this id, the first one where the image repeats it; undefined where the image has no such chunk. */
  find(id: ChunkId): number | undefined {
    this.#numbers ??= new ChunkNumbers(this);
    return this.#numbers.find(id);
  }

  /** Number of the next chunk with the same id as this one; undefined where there is none. */
  nextSame(at: number): number | undefined {
    this.#numbers ??= new ChunkNumbers(this);
    return this.#numbers.nextSame(at);
  }

  /** Number of the chunk that holds the image's byte at `offset`; undefined beyond the image's end. */
  chunkAt(offset: number): number | undefined {
    if (offset < 0 || offset >= this.lengthBytes) return undefined;
    let low = 0;
    let high = this.count - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.endOf(middle) > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The chunks in the image's order. */
  *places(): Generator<ChunkPlace> {
    let offset = 0;
    for (let at = 0; at < this.count; at++) {
      const end = this.endOf(at);
      yield { id: this.idAt(at), offset, lengthBytes: end - offset };
      offset = end;
    }
  }

  #itemAt(at: number): number {
    if (!Number.isInteger(at) || at < 0 || at >= this.count)
      throw new RangeError(`chunk ${at} of an index of ${this.count}`);
    return ITEMS_AT + at * ITEM_BYTES;
  }
}

/** Most chunks an index of MAX_INDEX_BYTES can list. */
export const MAX_INDEX_CHUNKS = Math.floor((MAX_INDEX_BYTES - ITEMS_AT - TAIL_BYTES) / ITEM_BYTES);

const FIRST_BUILDER_BYTES = 16 * 1024;

/** Collects the chunks of an image in order and makes the index of them. */
export class ChunkIndexBuilder {
  readonly #sizes: ChunkSizes;
  #bytes = Buffer.allocUnsafe(FIRST_BUILDER_BYTES);
  #used = ITEMS_AT;

  constructor(sizes: ChunkSizes) {
    this.#sizes = sizes;
  }

  /**
   * @param endOffset where the chunk ends in the image: strictly rising, each chunk at most `sizes.maxBytes`
   * @throws SITECAST_INDEX_TOO_LARGE when the index is full
   */
  add(id: ChunkId, endOffset: number): void {
    if (this.#used + ITEM_BYTES + TAIL_BYTES > MAX_INDEX_BYTES)
      throw new SitecastError(
        'tooLarge',
        'SITECAST_INDEX_TOO_LARGE',
        `the image has more than ${MAX_INDEX_CHUNKS} chunks`,
        { hint: 'Choose larger chunks.', data: { maxChunks: MAX_INDEX_CHUNKS } },
      );
    if (this.#used + ITEM_BYTES + TAIL_BYTES > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(Math.min(this.#bytes.length * 2, MAX_INDEX_BYTES));
      this.#bytes.copy(larger, 0, 0, this.#used);
      this.#bytes = larger;
    }
    writeOffset(this.#bytes, endOffset, this.#used);
    this.#bytes.set(id, this.#used + 8);
    this.#used += ITEM_BYTES;
  }

  /**
   * Ends the list; the builder is used up.
   * @throws SITECAST_INDEX_… as `ChunkIndex.decode` does, when the list isn't a right one
   */
  finish(): ChunkIndex {
    const bytes = this.#bytes;
    bytes.writeBigUInt64LE(BigInt(HEADER_BYTES), 0);
    bytes.writeBigUInt64LE(INDEX_TYPE, 8);
    bytes.writeBigUInt64LE(WRITTEN_FEATURES, 16);
    writeOffset(bytes, this.#sizes.minBytes, 24);
    writeOffset(bytes, this.#sizes.avgBytes, 32);
    writeOffset(bytes, this.#sizes.maxBytes, 40);
    bytes.writeBigUInt64LE(UNKNOWN_SIZE, HEADER_BYTES);
    bytes.writeBigUInt64LE(TABLE_TYPE, HEADER_BYTES + 8);
    const end = this.#used + TAIL_BYTES;
    bytes.fill(0, this.#used, this.#used + 16);
    writeOffset(bytes, HEADER_BYTES, this.#used + 16);
    writeOffset(bytes, end - HEADER_BYTES, this.#used + 24);
    bytes.writeBigUInt64LE(TAIL_MARKER, this.#used + 32);
    return ChunkIndex.decode(bytes.subarray(0, end));
  }
}

function checkHead(encoded: Buffer): void {
  if (encoded.length < HEADER_BYTES) throw defect('SITECAST_INDEX_TRUNCATED', 'it ends within its header');
  if (encoded.readBigUInt64LE(0) !== BigInt(HEADER_BYTES) || encoded.readBigUInt64LE(8) !== INDEX_TYPE)
    throw defect('SITECAST_INDEX_NOT_CAIBX', 'it does not begin as a casync index');
  const features = encoded.readBigUInt64LE(16);
  if ((features & FEATURE_SHA512_256) !== 0n)
    throw defect('SITECAST_INDEX_DIGEST', 'its chunk ids are SHA-512/256', {
      hint: 'Make it with casync make --digest=sha256.',
    });
  if ((features & ~KNOWN_FEATURES) !== 0n)
    throw defect('SITECAST_INDEX_FEATURES', 'it describes a directory tree, not one file', {
      hint: 'Give the image itself to casync make, and name the index .caibx.',
      data: { features: `0x${features.toString(16)}` },
    });
}

function readSizes(encoded: Buffer): ChunkSizes {
  const min = encoded.readBigUInt64LE(24);
  const avg = encoded.readBigUInt64LE(32);
  const max = encoded.readBigUInt64LE(40);
  if (min < 1n || min > avg || avg > max || max > BigInt(MAX_CHUNK_BYTES))
    throw defect('SITECAST_INDEX_CHUNK_SIZES', `its chunk sizes ${min}:${avg}:${max} aren't usable`, {
      hint: `Sizes rise from minimum over average to maximum, which is at most ${MAX_CHUNK_BYTES} bytes.`,
    });
  return { minBytes: Number(min), avgBytes: Number(avg), maxBytes: Number(max) };
}

function checkTable(encoded: Buffer): void {
  if (encoded.length < ITEMS_AT + TAIL_BYTES || (encoded.length - ITEMS_AT - TAIL_BYTES) % ITEM_BYTES !== 0)
    throw defect('SITECAST_INDEX_TRUNCATED', 'its table of chunks is cut off');
  if (
    encoded.readBigUInt64LE(HEADER_BYTES) !== UNKNOWN_SIZE ||
    encoded.readBigUInt64LE(HEADER_BYTES + 8) !== TABLE_TYPE
  )
    throw defect('SITECAST_INDEX_TABLE', 'its table of chunks does not begin as one');
  const tail = encoded.length - TAIL_BYTES;
  if (
    encoded.readBigUInt64LE(tail) !== 0n ||
    encoded.readBigUInt64LE(tail + 8) !== 0n ||
    encoded.readBigUInt64LE(tail + 16) !== BigInt(HEADER_BYTES) ||
    encoded.readBigUInt64LE(tail + 24) !== BigInt(encoded.length - HEADER_BYTES) ||
    encoded.readBigUInt64LE(tail + 32) !== TAIL_MARKER
  )
    throw defect('SITECAST_INDEX_TAIL', 'its end is not that of a complete index');
  if (tail === ITEMS_AT) throw defect('SITECAST_INDEX_EMPTY', 'it lists no chunk');
}

function checkOffsets(encoded: Buffer, maxBytes: number): void {
  let start = 0;
  for (let item = ITEMS_AT; item < encoded.length - TAIL_BYTES; item += ITEM_BYTES) {
    const end = readOffset(encoded, item);
    if (end <= start || !Number.isSafeInteger(end))
      throw defect(
        'SITECAST_INDEX_OFFSETS',
        `chunk ${(item - ITEMS_AT) / ITEM_BYTES} does not end after its start`,
      );
    if (end - start > maxBytes)
      throw defect(
        'SITECAST_INDEX_CHUNK_TOO_LARGE',
        `chunk ${(item - ITEMS_AT) / ITEM_BYTES} has ${end - start} bytes, its header promises at most ${maxBytes}`,
      );
    start = end;
  }
}

/** Two 32-bit reads: a BigInt for each of 1.6 million offsets would be garbage. */
function readOffset(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at);
}

function writeOffset(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32LE(value % 2 ** 32, at);
  bytes.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function defect(
  code: ErrorCode,
  what: string,
  detail: { hint?: string; data?: Record<string, unknown> } = {},
): SitecastError {
  return new SitecastError('badInput', code, `not a usable chunk index: ${what}`, detail);
}

import { createHash } from 'node:crypto';
import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { SitecastError } from '../../errors.ts';
import { CHUNK_ID_BYTES, sha256 } from '../chunk-id.ts';
import { type ChunkIndex, ChunkIndexBuilder, type ChunkSizes } from '../chunk-index.ts';
import { ChunkCutter, checkChunkSizes } from '../chunking/fastcdc.ts';
import type { BufferPool } from './buffer-pool.ts';

/** How much of an image is read and sent at once, in bytes, unless told otherwise; and the most. */
export const MAX_READ_BYTES = 4 * 1024 * 1024;

/** Some whole chunks of an image, in its order. The receiver gives `block` back to the pool when it is done with the bytes. */
export interface ImageBatch {
  readonly block: ArrayBuffer;
  /** The chunks' bytes, one after the other: a view into `block`. */
  readonly bytes: Buffer;
  /** Where each chunk ends in `bytes`. */
  readonly ends: Uint32Array;
  /** Their ids, 32 bytes each. */
  readonly ids: Buffer;
}

export interface ImageSummary {
  readonly lengthBytes: number;
  /** SHA-256 of the whole image. */
  readonly sha256: Buffer;
  readonly index: ChunkIndex;
}

/**
 * Reads an image once, front to back, in memory that doesn't grow with it: cuts it into chunks, hashes each and all of
 * them together. The next piece is read while this one is hashed.
 */
export class ImageReader {
  readonly path: string;
  /** Unknown for a block device, which is read to its end. */
  readonly lengthBytes: number | undefined;
  readonly #handle: FileHandle;
  readonly #sizes: ChunkSizes;
  readonly #readBytes: number;
  readonly #before: BigIntStats;
  readonly #hash = createHash('sha256');
  readonly #index: ChunkIndexBuilder;
  #position = 0;
  #cutBytes = 0;
  #summary: ImageSummary | undefined;

  private constructor(
    path: string,
    handle: FileHandle,
    before: BigIntStats,
    sizes: ChunkSizes,
    readBytes: number,
  ) {
    this.path = path;
    this.#readBytes = readBytes;
    this.#handle = handle;
    this.#before = before;
    this.lengthBytes = before.isFile() ? Number(before.size) : undefined;
    this.#sizes = sizes;
    this.#index = new ChunkIndexBuilder(sizes);
  }

  /**
   * Opens a regular file or a block device.
   * @param readBytes how much is read at once: `sizes.maxBytes` to MAX_READ_BYTES
   * @throws SITECAST_NOT_A_FILE, SITECAST_IMAGE_EMPTY, SITECAST_CHUNK_SIZES; the system's error (ENOENT …) otherwise
   */
  static async open(path: string, sizes: ChunkSizes, readBytes = MAX_READ_BYTES): Promise<ImageReader> {
    checkChunkSizes(sizes);
    if (readBytes < sizes.maxBytes || readBytes > MAX_READ_BYTES)
      throw new RangeError(`cannot read ${readBytes} bytes at once`);
    const { handle, found } = await openImage(path);
    return new ImageReader(path, handle, found, sizes, readBytes);
  }

  /** What the blocks of the pool given to `batches` hold, in bytes: a piece of the image behind room for a cut chunk. */
  get blockBytes(): number {
    return this.#sizes.maxBytes + this.#readBytes;
  }

  /**
   * The image's chunks. To be called once; the pool has at least two blocks of `blockBytes`.
   * @throws SITECAST_IMAGE_CHANGED when the file was touched meanwhile, SITECAST_IMAGE_EMPTY, SITECAST_INDEX_TOO_LARGE,
   *   the signal's reason
   */
  async *batches(pool: BufferPool, signal: AbortSignal): AsyncGenerator<ImageBatch> {
    const room = this.#sizes.maxBytes;
    const cutter = new ChunkCutter(this.#sizes);
    let block = await pool.acquire(signal);
    let reading = this.#read(block, room);
    try {
      for (;;) {
        const filledBytes = await reading;
        // A file that grows as fast as it is read would never end.
        if (this.#position > (this.lengthBytes ?? Number.POSITIVE_INFINITY)) throw this.#changed();
        const isLast = filledBytes < this.#readBytes;
        const next = isLast ? undefined : await pool.acquire(signal);
        if (next !== undefined) reading = this.#read(next, room);

        const from = room - cutter.filledBytes;
        const end = room + filledBytes;
        this.#hash.update(new Uint8Array(block, room, filledBytes));
        const ends = cutAll(cutter, block, room, end, isLast);
        const cutEnd = ends.at(-1) ?? from;
        if (next !== undefined) copyTail(block, cutEnd, end, next, room);
        if (isLast) await this.#checkUnchanged();
        if (ends.length > 0) yield this.#batchOf(block, from, ends);
        else pool.release(block);
        if (next === undefined) break;
        block = next;
      }
      this.#finish();
    } finally {
      // The read isn't waited for any more, but the file must not be closed under it.
      await reading.catch(() => 0);
    }
  }

  /** Known once `batches` has come to its end. */
  summary(): ImageSummary {
    if (this.#summary === undefined) throw new Error('the image has not been read to its end');
    return this.#summary;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  /** Fills a block behind the first `room` bytes. @returns number of bytes read: fewer only at the image's end */
  #read(block: ArrayBuffer, room: number): Promise<number> {
    const reading = this.#fill(block, room);
    // The read may fail while the piece before is still being worked on. The failure shows when it is awaited.
    reading.catch(() => undefined);
    return reading;
  }

  async #fill(block: ArrayBuffer, room: number): Promise<number> {
    const target = new Uint8Array(block, room, this.#readBytes);
    let filled = 0;
    while (filled < target.length) {
      const { bytesRead } = await this.#handle.read(target, filled, target.length - filled, this.#position);
      if (bytesRead === 0) break;
      filled += bytesRead;
      this.#position += bytesRead;
    }
    return filled;
  }

  #batchOf(block: ArrayBuffer, from: number, blockEnds: readonly number[]): ImageBatch {
    const ids = Buffer.allocUnsafe(blockEnds.length * CHUNK_ID_BYTES);
    const ends = new Uint32Array(blockEnds.length);
    let start = from;
    for (const [at, end] of blockEnds.entries()) {
      const id = sha256(new Uint8Array(block, start, end - start));
      ids.set(id, at * CHUNK_ID_BYTES);
      ends[at] = end - from;
      this.#cutBytes += end - start;
      this.#index.add(id, this.#cutBytes);
      start = end;
    }
    return { block, bytes: Buffer.from(block, from, start - from), ends, ids };
  }

  /** A write would have to fall within the clock tick of the last one before, with the same size, to stay unseen. */
  async #checkUnchanged(): Promise<void> {
    if (this.lengthBytes === undefined) return;
    const before = this.#before;
    const after = await this.#handle.stat({ bigint: true });
    const isSame =
      BigInt(this.#position) === before.size &&
      after.size === before.size &&
      after.mtimeNs === before.mtimeNs &&
      after.ctimeNs === before.ctimeNs;
    if (!isSame) throw this.#changed();
  }

  #changed(): SitecastError {
    return new SitecastError(
      'conflict',
      'SITECAST_IMAGE_CHANGED',
      `${this.path} was changed while it was read`,
      { hint: 'Publish it once nothing writes to it any more.', data: { path: this.path } },
    );
  }

  #finish(): void {
    if (this.#cutBytes === 0) throw emptyImage(this.path);
    this.#summary = {
      lengthBytes: this.#cutBytes,
      sha256: this.#hash.digest(),
      index: this.#index.finish(),
    };
  }
}

/** Ends of the chunks that end before `to`, as offsets in the block; at the image's end also that of its last chunk. */
function cutAll(
  cutter: ChunkCutter,
  block: ArrayBuffer,
  from: number,
  to: number,
  isLast: boolean,
): number[] {
  const bytes = new Uint8Array(block);
  const ends: number[] = [];
  for (let at = cutter.next(bytes, from, to); at !== -1; at = cutter.next(bytes, at, to)) ends.push(at);
  if (isLast && cutter.filledBytes > 0) ends.push(to);
  return ends;
}

/** A chunk that doesn't end in this block is moved to before the next one's bytes. */
function copyTail(block: ArrayBuffer, from: number, to: number, next: ArrayBuffer, room: number): void {
  new Uint8Array(next).set(new Uint8Array(block, from, to - from), room - (to - from));
}

/**
 * Opens an image: a regular file or a block device. A pipe is refused: an image is read more than once.
 * @throws SITECAST_NOT_A_FILE, SITECAST_IMAGE_EMPTY; the system's error (ENOENT …) otherwise
 */
export async function openImage(path: string): Promise<{ handle: FileHandle; found: BigIntStats }> {
  // Without O_NONBLOCK, `open` waits for a pipe's writer before the pipe can be refused.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const found = await handle.stat({ bigint: true });
    if (!found.isFile() && !found.isBlockDevice())
      throw new SitecastError(
        'badInput',
        'SITECAST_NOT_A_FILE',
        `${path} is neither a file nor a block device`,
      );
    if (found.isFile() && found.size === 0n) throw emptyImage(path);
    return { handle, found };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function emptyImage(path: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_IMAGE_EMPTY', `${path} is empty`, { data: { path } });
}

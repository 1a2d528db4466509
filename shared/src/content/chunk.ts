import { type ChunkId, sameChunkId, sha256 } from './chunk-id.ts';
import { MAX_CHUNK_BYTES } from './limits.ts';
import {
  chunkMismatch,
  compressFrame,
  decompressAtMost,
  decompressInto,
  isRawFrame,
  soleRawBlock,
} from './zstd.ts';

/**
 * A chunk on its way, in the form in which it came: a zstd frame or plain bytes. The other form is made when it is
 * first asked for, so handing a frame from one store to another never decompresses it.
 */
export class Chunk {
  readonly id: ChunkId;
  #frame: Uint8Array | undefined;
  #plain: Uint8Array | undefined;
  #isVerified = false;
  #isCompact = false;

  private constructor(id: ChunkId, frame: Uint8Array | undefined, plain: Uint8Array | undefined) {
    this.id = id;
    this.#frame = frame;
    this.#plain = plain;
  }

  /** Nothing is checked yet; `verify` does. The frame is kept, not copied. */
  static fromFrame(id: ChunkId, frame: Uint8Array): Chunk {
    return new Chunk(id, frame, undefined);
  }

  /** Nothing is checked yet; `verify` does. The bytes are kept, not copied. */
  static fromPlain(id: ChunkId, plain: Uint8Array): Chunk {
    return new Chunk(id, undefined, plain);
  }

  /**
   * The content of a frame in memory of the caller's, checked. The frame isn't kept.
   * @param into no shorter than the content; it belongs to the chunk from now on. The frame may lie at its beginning
   * @throws SITECAST_CHUNK_MISMATCH, whatever is wrong with it
   */
  static verified(id: ChunkId, frame: Uint8Array, lengthBytes: number, into: Uint8Array): Chunk {
    // Nothing is decompressed onto itself; what wasn't compressed stays where it is.
    const isWithin = frame.buffer === into.buffer;
    const chunk = new Chunk(id, frame, isWithin ? soleRawBlock(frame) : undefined);
    chunk.verify(lengthBytes, isWithin ? undefined : into);
    chunk.#frame = undefined;
    return chunk;
  }

  /** The bytes that are there already, as a frame if there's one: what costs nothing to pass on. */
  ready(): { readonly form: 'frame' | 'plain'; readonly bytes: Uint8Array } {
    return this.#frame ? { form: 'frame', bytes: this.#frame } : { form: 'plain', bytes: this.plain() };
  }

  /** One zstd frame with the chunk's bytes. Compresses, in this thread, what came plain. */
  frame(): Uint8Array {
    this.#frame ??= compressFrame(this.plain());
    return this.#frame;
  }

  /**
   * Compresses, in this thread, a frame that holds the content as it is, where that makes it shorter. Devices send such frames; who keeps a
   * chunk, or sends it over a thin line, wants the short one.
   */
  compact(): this {
    const frame = this.#frame;
    if (frame && !this.#isCompact && isRawFrame(frame)) {
      const compressed = compressFrame(this.plain());
      if (compressed.length < frame.length) this.#frame = compressed;
    }
    this.#isCompact = true;
    return this;
  }

  /**
   * The chunk's plain bytes: trustworthy only after `verify`.
   * @throws SITECAST_FRAME_INVALID when the frame isn't one, or holds more than MAX_CHUNK_BYTES
   */
  plain(): Uint8Array {
    this.#plain ??= decompressAtMost(this.#frame ?? new Uint8Array(0), MAX_CHUNK_BYTES);
    return this.#plain;
  }

  /**
   * Checks the plain bytes against the id, once: a chunk that was found right isn't hashed again.
   * @param expectedBytes their length, where an index says it
   * @param into memory for the plain bytes of a frame, no shorter than they are: it must not change while this chunk is in use
   * @throws SITECAST_CHUNK_MISMATCH, whatever is wrong with them
   */
  verify(expectedBytes?: number, into?: Uint8Array): this {
    const plain = this.#plainToVerify(expectedBytes, into);
    const hasRightLength =
      expectedBytes === undefined
        ? plain.length > 0 && plain.length <= MAX_CHUNK_BYTES
        : plain.length === expectedBytes;
    if (!hasRightLength) throw chunkMismatch(this.id);
    if (!this.#isVerified && !sameChunkId(sha256(plain), this.id)) throw chunkMismatch(this.id);
    this.#isVerified = true;
    return this;
  }

  #plainToVerify(expectedBytes: number | undefined, into: Uint8Array | undefined): Uint8Array {
    try {
      if (this.#plain || !this.#frame || expectedBytes === undefined) return this.plain();
      // Memory of the right length is all that a right chunk needs.
      const target = into?.subarray(0, expectedBytes) ?? Buffer.allocUnsafe(expectedBytes);
      const lengthBytes = decompressInto(target, this.#frame);
      return (this.#plain = target.subarray(0, lengthBytes));
    } catch (cause) {
      throw chunkMismatch(this.id, cause);
    }
  }
}

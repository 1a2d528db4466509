import * as zlib from 'node:zlib';
import { SitecastError } from '../errors.ts';
import { type ChunkId, chunkIdToHex, sameChunkId, sha256 } from './chunk-id.ts';
import { type RawContent, rawPieces, readFrameShape } from './frame-shape.ts';
import { longestFrameBytes, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, MAX_FRAME_WINDOW_BYTES } from './limits.ts';

// This file alone decides which zstd runs. Everything else calls the functions below.

/** Both write into memory of the caller's and never beyond it, whatever a frame claims. */
interface ZstdCodec {
  /** Which library it is, for diagnosis. */
  readonly name: 'node:zlib' | 'zstd-napi';
  /** @returns how many bytes of `target` the frame takes; throws when it doesn't fit */
  compress(target: Uint8Array, plain: Uint8Array, level: number): number;
  /** @returns how many bytes of `target` the content takes; throws when it doesn't fit or the frame is wrong */
  decompress(target: Uint8Array, frame: Uint8Array): number;
}

/** node:zlib refuses a smaller `chunkSize`. */
const MIN_PIECE_BYTES = 64;

export const MIN_ZSTD_LEVEL = 1;
export const MAX_ZSTD_LEVEL = 19;
export const DEFAULT_ZSTD_LEVEL = 3;

/**
 * The runtime's own zstd (Node 22.15+) is kept up to date with it; where it has none, zstd-napi's, compiled at install.
 * Of zstd-napi only the raw binding is used: its high-level decompressors allocate whatever a frame claims.
 */
const codec = isZstdModule(zlib) ? zlibCodec(zlib) : await napiCodec();

/** Which zstd library this process uses. */
export const ZSTD_LIBRARY = codec.name;

/** The longest frame that `compressInto` makes of so many plain bytes (zstd's ZSTD_COMPRESSBOUND). */
export function maxFrameBytes(plainBytes: number): number {
  const smallInput = 128 * 1024;
  return plainBytes + (plainBytes >>> 8) + (plainBytes < smallInput ? (smallInput - plainBytes) >>> 11 : 0);
}

/**
 * Compresses a chunk into memory of the caller's, of at least `maxFrameBytes(plain.length)`.
 * @param level MIN_ZSTD_LEVEL to MAX_ZSTD_LEVEL
 * @returns length of the frame, in bytes
 */
export function compressInto(target: Uint8Array, plain: Uint8Array, level: number): number {
  return codec.compress(target, plain, level);
}

/** One zstd frame that holds these plain bytes. */
export function compressFrame(plain: Uint8Array, level = DEFAULT_ZSTD_LEVEL): Buffer {
  const target = Buffer.allocUnsafe(maxFrameBytes(plain.length));
  return target.subarray(0, compressInto(target, plain, level));
}

/**
 * Decompresses an untrusted frame into memory of the caller's. Never writes more than fits, and never
 * allocates by what the frame claims.
 * @returns length of the content, in bytes
 * @throws SITECAST_FRAME_INVALID when it isn't exactly one frame, wants a window beyond MAX_FRAME_WINDOW_BYTES, is
 *   longer than MAX_FRAME_BYTES or than its content may make it, or its content doesn't fit
 */
export function decompressInto(target: Uint8Array, frame: Uint8Array): number {
  if (frame.length > MAX_FRAME_BYTES) throw invalid(`it is longer than ${MAX_FRAME_BYTES} bytes`);
  const { windowBytes, contentBytes, rawContent } = readFrameShape(frame);
  if (contentBytes !== undefined && contentBytes > target.length)
    throw invalid(`it claims ${contentBytes} bytes where at most ${target.length} may be`);
  if (windowBytes > MAX_FRAME_WINDOW_BYTES) throw invalid(`it wants a window of ${windowBytes} bytes`);
  const lengthBytes =
    rawContent && contentBytes !== undefined
      ? joinBlocks(target, frame, rawContent, contentBytes)
      : decode(target, frame);
  // Padded with blocks that hold nothing: whoever sent it makes its receivers pay for bytes that they don't get.
  if (frame.length > longestFrameBytes(lengthBytes))
    throw invalid(`it takes ${frame.length} bytes for a content of ${lengthBytes}`);
  return lengthBytes;
}

function decode(target: Uint8Array, frame: Uint8Array): number {
  try {
    return codec.decompress(target, frame);
  } catch (cause) {
    throw invalid(`it does not decompress to at most ${target.length} bytes`, cause);
  }
}

/** The content of a frame that is one raw block: a view of it. @returns undefined for any other frame, and for what is none */
export function soleRawBlock(frame: Uint8Array): Uint8Array | undefined {
  try {
    const { rawContent, contentBytes } = readFrameShape(frame);
    if (rawContent?.lengthBytes !== contentBytes) return undefined;
    const [piece, next] = rawContent ? rawPieces(frame, rawContent) : [];
    return next ? undefined : piece;
  } catch {
    // Whoever decompresses it says why.
    return undefined;
  }
}

/** Whether a frame holds its content as it is: what `compressFrame` makes of that may be shorter. */
export function isRawFrame(frame: Uint8Array): boolean {
  try {
    return readFrameShape(frame).rawContent !== undefined;
  } catch {
    // Whoever decompresses it says why.
    return false;
  }
}

/** What a device sends of its slot: content that was never compressed needs no decoder. */
function joinBlocks(
  target: Uint8Array,
  frame: Uint8Array,
  rawContent: RawContent,
  contentBytes: number,
): number {
  if (rawContent.lengthBytes !== contentBytes) throw invalid('its blocks hold something else than it claims');
  let at = 0;
  for (const piece of rawPieces(frame, rawContent)) {
    target.set(piece, at);
    at += piece.length;
  }
  return at;
}

/** The content of a frame, in new memory, if it has at most `maxBytes`. @throws SITECAST_FRAME_INVALID */
export function decompressAtMost(frame: Uint8Array, maxBytes = MAX_CHUNK_BYTES): Buffer {
  const target = Buffer.allocUnsafe(maxBytes);
  const lengthBytes = decompressInto(target, frame);
  // Hold just what is used: a small chunk must not keep a mebibyte alive.
  return lengthBytes === maxBytes ? target : Buffer.from(target.subarray(0, lengthBytes));
}

/** The content of a frame, in new memory, if it has exactly that length. @throws SITECAST_FRAME_INVALID */
export function decompressExactly(frame: Uint8Array, expectedBytes: number): Buffer {
  const target = Buffer.allocUnsafe(expectedBytes);
  const lengthBytes = decompressInto(target, frame);
  if (lengthBytes !== expectedBytes) throw invalid(`it holds ${lengthBytes} bytes, not ${expectedBytes}`);
  return target;
}

/**
 * Checks, without waiting, that a frame holds the chunk of that id.
 * @param scratch memory that holds the plain bytes afterwards, as long as they may be (MAX_CHUNK_BYTES unless known)
 * @returns length of the plain bytes
 * @throws SITECAST_CHUNK_MISMATCH, whatever is wrong with it
 */
export function verifyFrame(id: ChunkId, frame: Uint8Array, scratch: Uint8Array): number {
  let lengthBytes: number;
  try {
    lengthBytes = decompressInto(scratch, frame);
  } catch (cause) {
    throw chunkMismatch(id, cause);
  }
  if (lengthBytes === 0 || !sameChunkId(sha256(scratch.subarray(0, lengthBytes)), id))
    throw chunkMismatch(id);
  return lengthBytes;
}

/** The error for bytes that aren't those of the chunk that was asked for. */
export function chunkMismatch(id: ChunkId, cause?: unknown): SitecastError {
  const hex = chunkIdToHex(id);
  return new SitecastError('untrusted', 'SITECAST_CHUNK_MISMATCH', `not the bytes of chunk ${hex}`, {
    data: { id: hex },
    cause,
  });
}

function invalid(what: string, cause?: unknown): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_FRAME_INVALID', `not the zstd frame of a chunk: ${what}`, {
    cause,
  });
}

/** The part of node:zlib that Node 20's types don't know. */
interface ZstdModule {
  zstdCompressSync(
    plain: Uint8Array,
    options: ZstdOptions & { pledgedSrcSize: number; chunkSize: number },
  ): Buffer;
  zstdDecompressSync(frame: Uint8Array, options: ZstdOptions & { maxOutputLength: number }): Buffer;
  readonly constants: { readonly ZSTD_c_compressionLevel: number; readonly ZSTD_d_windowLogMax: number };
}

interface ZstdOptions {
  params: Record<number, number>;
}

function isZstdModule(module: object): module is ZstdModule {
  return 'zstdCompressSync' in module && 'zstdDecompressSync' in module;
}

function zlibCodec(module: ZstdModule): ZstdCodec {
  const { ZSTD_c_compressionLevel, ZSTD_d_windowLogMax } = module.constants;
  const decompressParams = { [ZSTD_d_windowLogMax]: Math.log2(MAX_FRAME_WINDOW_BYTES) };
  return {
    name: 'node:zlib',
    compress: (target, plain, level) => {
      const params = { [ZSTD_c_compressionLevel]: level };
      const pledgedSrcSize = plain.length;
      // Where a frame fills its last piece exactly, node:zlib (Node 26.10) calls the encoder once more, which appends an
      // empty frame. So one piece always has room for more than the longest frame.
      const chunkSize = Math.max(MIN_PIECE_BYTES, maxFrameBytes(plain.length) + 1);
      return copyInto(target, module.zstdCompressSync(plain, { params, pledgedSrcSize, chunkSize }));
    },
    decompress: (target, frame) =>
      copyInto(
        target,
        module.zstdDecompressSync(frame, {
          params: decompressParams,
          // node:zlib wants room for one byte at least; `copyInto` still refuses what doesn't fit.
          maxOutputLength: Math.max(1, target.length),
        }),
      ),
  };
}

/** @throws RangeError when it doesn't fit */
function copyInto(target: Uint8Array, bytes: Uint8Array): number {
  target.set(bytes);
  return bytes.length;
}

async function napiCodec(): Promise<ZstdCodec> {
  // `import` sees no named exports of a native addon, just the whole.
  const { CCtx, DCtx } = (await import('zstd-napi/binding.js')).default;
  // One context each for the life of the thread: a new one costs more than a small chunk takes to compress.
  const compressor = new CCtx();
  const decompressor = new DCtx();
  return {
    name: 'zstd-napi',
    compress: (target, plain, level) => compressor.compress(target, plain, level),
    decompress: (target, frame) => decompressor.decompress(target, frame),
  };
}

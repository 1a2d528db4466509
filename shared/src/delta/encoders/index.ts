import { existsSync } from 'node:fs';
import { MAX_PIECE_BYTES } from '../limits.ts';
import { decodeDeflate, encodeDeflate, pakoFile } from './deflate.ts';
import { decodeLz4Block } from './lz4-block.ts';
import { encodeLz4Hc } from './lz4-hc.ts';
import { wrongPiece } from './wrong-piece.ts';
import { decodeXz, encodeXz, parameterOfXz, releaseXz, takesXz } from './xz/xz.ts';
import { decodeZstd, encodeZstd, releaseZstd, zstdFile } from './zstd.ts';

/**
 * A codec of compressed pieces of an image, such as a squashfs block or a block of a kernel. A device opens (decompresses) the pieces of
 * its base, patches the plain bytes, and closes (compresses) the target's pieces. The encoder must give the same bytes as the maker's, so
 * each name stands for one build of it.
 */
export interface PieceCodec {
  /** Used in recipes, and by agents to say which encoders they have. */
  readonly name: string;
  /** Used in patches; never given to another codec. */
  readonly id: number;
  /** Whether the encoder takes this parameter: a whole number that holds its level and options. */
  takes(parameter: number): boolean;
  /**
   * The parameter that a compressed piece was made with; only for codecs whose pieces show it and may differ within one image. Throws
   * `SITECAST_PATCH_PIECE`.
   */
  parameterOf?(bytes: Uint8Array): number;
  /** The longest piece that it opens or closes, plain or compressed: what bounds its memory. */
  readonly maxPieceBytes: number;
  /** Whether it leaves memory in the C library's heap, which is freed only when its thread ends. */
  readonly wearsThread: boolean;
  /** About how many bytes of garbage it leaves for V8 to collect after a piece of that length. */
  garbageOf(plainLength: number): number;
  /**
   * Compresses one piece. Bytes that don't fit `into` are dropped.
   * @returns the length of the whole compressed piece
   * @throws SITECAST_PATCH_PIECE
   */
  encode(plain: Uint8Array, parameter: number, into: Uint8Array): number;
  /**
   * Decompresses one piece.
   * @returns the length of the content, in bytes
   * @throws SITECAST_PATCH_PIECE where it's malformed or longer than `into`
   */
  decode(bytes: Uint8Array, into: Uint8Array): number;
  /** Whether the package that it needs is installed: devices may leave it out. */
  isInstalled(): boolean;
}

/** zlib's options in one number, as `PieceCodec.encode` of `pako-2.2.0` takes it. */
export function deflateParameter(level: number, windowBits: number, strategy: number): number {
  return level + 16 * windowBits + 256 * strategy;
}

/** The longest block of a squashfs. */
const MAX_SQUASHFS_BLOCK_BYTES = 1024 * 1024;

const zstd: PieceCodec = {
  name: 'zstd-1.5.5-wasm',
  id: 1,
  wearsThread: true,
  garbageOf: () => 0,
  maxPieceBytes: MAX_SQUASHFS_BLOCK_BYTES,
  takes: level => level >= 1 && level <= 22,
  encode: encodeZstd,
  decode: decodeZstd,
  isInstalled: () => isThere(zstdFile),
};

const deflate: PieceCodec = {
  name: 'pako-2.2.0',
  id: 2,
  wearsThread: true,
  // pako's state, and the parts of its output.
  garbageOf: plainLength => 384 * 1024 + plainLength,
  maxPieceBytes: MAX_SQUASHFS_BLOCK_BYTES,
  takes: parameter => {
    const { level, windowBits, strategy } = deflateOptions(parameter);
    return level >= 1 && level <= 9 && windowBits >= 9 && windowBits <= 15 && strategy <= 4;
  },
  encode: (plain, parameter, into) => encodeDeflate(plain, deflateOptions(parameter), into),
  decode: decodeDeflate,
  isInstalled: () => isThere(pakoFile),
};

/** Blocks of `lz4 -l -9`. The length before each block isn't part of the piece. */
const lz4: PieceCodec = {
  name: 'lz4hc-1.9.4',
  id: 3,
  wearsThread: false,
  garbageOf: () => 0,
  maxPieceBytes: MAX_PIECE_BYTES,
  takes: level => level === 9,
  encode: (plain, _level, into) => encodeLz4Hc(plain, into),
  decode: decodeLz4Block,
  isInstalled: () => true,
};

/**
 * Whole .xz files, as mksquashfs makes them: blocks of data and of metadata, with dictionaries of different lengths, each with the filter
 * that suits it best.
 */
const xz: PieceCodec = {
  name: 'liblzma-5.4-ported',
  id: 4,
  wearsThread: true,
  // The decoder's probabilities, and the file's headers.
  garbageOf: () => 64 * 1024,
  maxPieceBytes: MAX_SQUASHFS_BLOCK_BYTES,
  takes: takesXz,
  parameterOf: parameterOfXz,
  encode: encodeXz,
  decode: decodeXz,
  isInstalled: () => true,
};

/** All codecs that there are. No other code is run, and none is downloaded. */
export const PIECE_CODECS: readonly PieceCodec[] = [zstd, deflate, lz4, xz];

/** Releases the memory that codecs keep for the next piece. */
export function releaseCodecs(): void {
  releaseZstd();
  releaseXz();
}

/** The codec of that name. @throws SITECAST_PATCH_PIECE where there is none */
export function pieceCodec(name: string): PieceCodec {
  return PIECE_CODECS.find(codec => codec.name === name) ?? wrongPiece(`${name} isn't known`);
}

function deflateOptions(parameter: number): { level: number; windowBits: number; strategy: number } {
  return {
    level: parameter % 16,
    windowBits: Math.floor(parameter / 16) % 16,
    strategy: Math.floor(parameter / 256),
  };
}

function isThere(fileOf: () => string): boolean {
  try {
    return existsSync(fileOf());
  } catch {
    // The package isn't installed.
    return false;
  }
}

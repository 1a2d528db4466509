import { deflateParameter, type PieceCodec, pieceCodec } from '@sitecast/shared/delta';
import { NotOpened } from './byte-source.ts';

/**
 * squashfs_fs.h: `ZLIB_COMPRESSION`, `XZ_COMPRESSION`, `ZSTD_COMPRESSION`. For lzo and lz4, no encoder that gives the same bytes is at
 * hand.
 */
const ZLIB = 1;
const XZ = 4;
const ZSTD = 6;
/** mksquashfs' default levels. */
const ZSTD_LEVEL = 15;
const ZLIB_LEVEL = 9;
const ZLIB_WINDOW_BITS = 15;
/** mksquashfs' default: a dictionary of 128 KiB, no filters. */
const XZ_PARAMETER = 10;

/** Opens pieces of one squashfs, and closes them to mksquashfs' bytes. */
export interface SquashfsCodec {
  readonly piece: PieceCodec;
  readonly parameter: number;
  /** @throws NotOpened */
  decode(bytes: Uint8Array, maxBytes: number): Uint8Array;
}

/** @param options the compressor's options, if the image has any; an image with a level that the encoder doesn't take isn't opened */
export function codecOf(compressor: number, options: DataView | undefined): SquashfsCodec | undefined {
  if (compressor === ZSTD)
    return codec('zstd-1.5.5-wasm', options === undefined ? ZSTD_LEVEL : uint32(options, 0));
  if (compressor === ZLIB) {
    const level = options === undefined ? ZLIB_LEVEL : uint32(options, 0);
    const windowBits =
      options === undefined || options.byteLength < 6 ? ZLIB_WINDOW_BITS : options.getUint16(4, true);
    if (level > 9 || windowBits > 15) return undefined;
    return codec('pako-2.2.0', deflateParameter(level, windowBits, 0));
  }
  // Its options aren't needed: each block shows how it was made.
  if (compressor === XZ) return codec('liblzma-5.4-ported', XZ_PARAMETER);
  return undefined;
}

function uint32(options: DataView, at: number): number {
  if (options.byteLength < at + 4) throw new NotOpened('compressor options are cut off');
  return options.getUint32(at, true);
}

function codec(name: string, parameter: number): SquashfsCodec | undefined {
  const piece = pieceCodec(name);
  if (!piece.takes(parameter)) return undefined;
  return { piece, parameter, decode: (bytes, maxBytes) => openPiece(piece, bytes, maxBytes) };
}

/** Opens a piece that may be malformed. @throws NotOpened */
function openPiece(piece: PieceCodec, bytes: Uint8Array, maxBytes: number): Uint8Array {
  try {
    const into = new Uint8Array(maxBytes);
    return into.subarray(0, piece.decode(bytes, into));
  } catch (error) {
    throw new NotOpened('a piece is malformed', { cause: error });
  }
}

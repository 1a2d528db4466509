import { decodeLz4Block, MAX_PIECE_BYTES, openBase, pieceCodec } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { baseLayers, MAX_LOOKED_AT_BYTES } from './opened-image.ts';
import type { Piece } from './piece-map.ts';

/**
 * The first bytes of a kernel that `lz4 -l` compressed. Blocks of 8 MiB follow, each after its length (lz4's `doc/lz4_Frame_format.md`,
 * "Legacy frame").
 */
export const LZ4_LEGACY_MAGIC = Buffer.of(0x02, 0x21, 0x4c, 0x18);
export const LZ4_LEGACY_BLOCK_BYTES = MAX_PIECE_BYTES;

/** A part of an image with pieces whose plain lengths aren't known yet. */
export interface ScanTask {
  readonly codec: string;
  readonly bytes: Uint8Array;
  /** `plainLength` is the longest possible one. */
  readonly pieces: readonly Piece[];
}

export interface ScanResult {
  /** 0: the piece can't be opened. */
  readonly plainLengths: Float64Array;
  /** Where LZ4_LEGACY_MAGIC stands in the opened part. */
  readonly magics: number[];
}

/** Opens the pieces of a part, measures their plain lengths, and looks for kernels in the opened part. */
export function scanPart({ codec, bytes, pieces }: ScanTask): ScanResult {
  const plainLengths = Float64Array.from(pieces, ({ offset, length, plainLength }) =>
    plainLengthOf(codec, bytes.subarray(offset, offset + length), plainLength),
  );
  const known = pieces
    .map((piece, at) => ({ ...piece, plainLength: plainLengths[at] ?? 0 }))
    .filter(({ plainLength }) => plainLength > 0);
  const opened =
    known.length === 0
      ? bytes
      : openBase(bytes, baseLayers([{ codec, parameter: 0, pieces: known }]), {
          maxBytes: MAX_LOOKED_AT_BYTES,
        });
  const magics: number[] = [];
  const searched = Buffer.from(opened.buffer, opened.byteOffset, opened.byteLength);
  for (
    let at = searched.indexOf(LZ4_LEGACY_MAGIC);
    at !== -1;
    at = searched.indexOf(LZ4_LEGACY_MAGIC, at + 1)
  )
    magics.push(at);
  return { plainLengths, magics };
}

function plainLengthOf(codec: string, bytes: Uint8Array, maxBytes: number): number {
  try {
    return pieceCodec(codec).decode(bytes, new Uint8Array(maxBytes));
  } catch (error) {
    if (error instanceof SitecastError) return 0;
    throw error;
  }
}

/** Looks for an LZ4 block after the length field at `at`. @returns its length and plain length; undefined where there is none */
export function probeBlock(
  opened: Uint8Array,
  at: number,
): { length: number; plainLength: number } | undefined {
  const view = new DataView(opened.buffer, opened.byteOffset, opened.byteLength);
  if (at + 4 > view.byteLength) return undefined;
  const length = view.getUint32(at, true);
  if (length === 0 || at + 4 + length > view.byteLength) return undefined;
  try {
    const plainLength = decodeLz4Block(
      opened.subarray(at + 4, at + 4 + length),
      new Uint8Array(LZ4_LEGACY_BLOCK_BYTES),
    );
    return plainLength === 0 ? undefined : { length, plainLength };
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

import { MAX_PIECE_BYTES } from '@sitecast/shared/delta';
import { blockwise, type ByteSource, NotOpened } from './byte-source.ts';
import { type ListedPiece, readSquashfs } from './squashfs.ts';

/** The compressed pieces of a squashfs, in order, as the maker's process tells them: 24 bytes a piece. */
export interface SquashfsLayer {
  /** Name of what opens them. */
  readonly codec: string;
  /** What they were made with. */
  readonly parameter: number;
  /** In bytes of the image. */
  readonly offsets: Float64Array;
  readonly lengths: Float64Array;
  readonly maxPlainLengths: Float64Array;
}

/** Finds the compressed pieces of an image. @returns undefined where it isn't a squashfs, none that can be opened here, or malformed */
export async function readLayer(source: ByteSource): Promise<SquashfsLayer | undefined> {
  try {
    const found = await readSquashfs(blockwise(source));
    if (found === undefined || found.pieces.length === 0) return undefined;
    const pieces = found.pieces.sort((one, other) => one.offset - other.offset);
    const column = (field: keyof ListedPiece) => Float64Array.from(pieces, piece => piece[field]);
    const layer = {
      codec: found.codec.piece.name,
      parameter: found.codec.parameter,
      offsets: column('offset'),
      lengths: column('length'),
      maxPlainLengths: column('maxPlainLength'),
    };
    return liesInside(layer, source.sizeBytes) ? layer : undefined;
  } catch (error) {
    if (error instanceof NotOpened) return undefined;
    throw error;
  }
}

/** Whether the pieces lie one after the other in an image of so many bytes. */
export function liesInside({ offsets, lengths, maxPlainLengths }: SquashfsLayer, sizeBytes: number): boolean {
  let end = 0;
  return (
    lengths.length === offsets.length &&
    maxPlainLengths.length === offsets.length &&
    offsets.every((offset, at) => {
      const [length = 0, plainLength = 0] = [lengths[at], maxPlainLengths[at]];
      const isAfter = [offset, length, plainLength].every(Number.isSafeInteger) && offset >= end;
      end = offset + length;
      return isAfter && length > 0 && end <= sizeBytes && plainLength > 0 && plainLength <= MAX_PIECE_BYTES;
    })
  );
}

import { MAX_PIECE_BYTES } from '@sitecast/shared/delta';
import { blockwise, type ByteSource, NotOpened } from './byte-source.ts';
import { type ListedPiece, readSquashfs } from './squashfs.ts';

/** The compressed pieces of a squashfs, in order, in the form in which the maker's process sends them: 24 bytes per piece. */
export interface SquashfsLayer {
  /** Name of their codec. */
  readonly codec: string;
  /** The encoder's parameter. */
  readonly parameter: number;
  /** In bytes of the image. */
  readonly offsets: Float64Array;
  readonly lengths: Float64Array;
  readonly maxPlainLengths: Float64Array;
}

/** Finds the compressed pieces of an image. @returns undefined where it isn't a squashfs, or is malformed, or can't be opened here */
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

/** Whether the pieces lie one after the other in an image of this length. */
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

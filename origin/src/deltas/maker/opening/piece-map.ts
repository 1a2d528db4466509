import { NotOpened } from './byte-source.ts';

/** A compressed piece of an image. Offsets and lengths in bytes. */
export interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly plainLength: number;
}

/** The most pieces in an image: 128 GiB in blocks of 128 KiB. */
export const MAX_PIECES = 2 ** 20;

/** The compressed pieces of an image, in order, and where their plain bytes lie in the opened image. Takes 32 bytes per piece. */
export class PieceMap {
  readonly count: number;
  /** How much longer the opened image is. */
  readonly growthBytes: number;
  readonly #offsets: Float64Array;
  readonly #lengths: Float64Array;
  readonly #plainLengths: Float64Array;
  readonly #plainOffsets: Float64Array;

  /** @param pieces without overlaps, in any order. @throws NotOpened where they overlap */
  constructor(pieces: readonly Piece[]) {
    const sorted = [...pieces].sort((one, other) => one.offset - other.offset);
    this.count = sorted.length;
    this.#offsets = Float64Array.from(sorted, piece => piece.offset);
    this.#lengths = Float64Array.from(sorted, piece => piece.length);
    this.#plainLengths = Float64Array.from(sorted, piece => piece.plainLength);
    this.#plainOffsets = new Float64Array(sorted.length);
    let end = 0;
    let growth = 0;
    sorted.forEach(({ offset, length, plainLength }, at) => {
      if (offset < end) throw new NotOpened(`pieces overlap at ${offset}`);
      this.#plainOffsets[at] = offset + growth;
      growth += plainLength - length;
      end = offset + length;
    });
    this.growthBytes = growth;
  }

  at(index: number): Piece & { readonly plainOffset: number } {
    const [offset, length, plainLength, plainOffset] = [
      this.#offsets[index],
      this.#lengths[index],
      this.#plainLengths[index],
      this.#plainOffsets[index],
    ];
    if (
      offset === undefined ||
      length === undefined ||
      plainLength === undefined ||
      plainOffset === undefined
    ) {
      throw new RangeError(`no piece ${index} of ${this.count}`);
    }
    return { offset, length, plainLength, plainOffset };
  }

  /** The first piece that ends after this offset of the image; `count` where none does. */
  endingAfter(offset: number): number {
    return firstWhere(
      this.count,
      index => (this.#offsets[index] ?? 0) + (this.#lengths[index] ?? 0) > offset,
    );
  }

  /** The first piece whose plain bytes end after this offset of the opened image. */
  plainEndingAfter(plainOffset: number): number {
    return firstWhere(
      this.count,
      index => (this.#plainOffsets[index] ?? 0) + (this.#plainLengths[index] ?? 0) > plainOffset,
    );
  }

  /** Where a byte outside of pieces lies in the opened image. A byte in a piece counts as the piece's first one. */
  toPlain(offset: number): number {
    const index = this.endingAfter(offset);
    if (index < this.count) {
      const piece = this.at(index);
      return offset >= piece.offset ? piece.plainOffset : piece.plainOffset - (piece.offset - offset);
    }
    return offset + this.growthBytes;
  }

  /** The inverse of `toPlain`: for plain bytes of a piece, where the piece begins. */
  toImage(plainOffset: number): number {
    const index = this.plainEndingAfter(plainOffset);
    if (index < this.count) {
      const piece = this.at(index);
      return plainOffset >= piece.plainOffset
        ? piece.offset
        : piece.offset - (piece.plainOffset - plainOffset);
    }
    return plainOffset - this.growthBytes;
  }
}

/** Binary search: the first number below `count` for which the claim is true, else `count`. The claim stays true after it. */
function firstWhere(count: number, isTrue: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (isTrue(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

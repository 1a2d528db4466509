import {
  type BaseLayer,
  MAX_OPENED_BASE_BYTES,
  MAX_OPENED_TARGET_BYTES,
  MAX_WINDOW_BASE_BYTES,
} from '@sitecast/shared/delta';
import { type Piece, PieceMap } from './piece-map.ts';

/** The pieces of one layer. Offsets are in the image, or in what the layer before opens to. */
export interface OpenedLayer {
  readonly codec: string;
  /** The encoder's parameter for the image's pieces. */
  readonly parameter: number;
  readonly pieces: PieceMap;
}

/** The pieces of one layer of a range, with offsets in that range: input of the maker's process. */
export interface RangeLayer {
  readonly codec: string;
  readonly parameter: number;
  /** In order. The last one may reach beyond the range; it is cut off there. */
  readonly pieces: readonly Piece[];
}

/** How much of an opened image the maker handles at a time: more than a device can, where the result is only looked at. */
export const MAX_LOOKED_AT_BYTES = 17 * 1024 * 1024;

/** A range of an image with the pieces that lie in it, outermost layer first. */
export interface ImageRange {
  readonly offset: number;
  readonly length: number;
  readonly layers: readonly RangeLayer[];
}

/** Where a window begins within a piece, the piece is opened only if at most this many of its compressed bytes lie before the window. */
const MAX_HEAD_BYTES = 512 * 1024;
/** How many compressed bytes after a cut in an LZ4 block are opened, too: its encoder's choices before the cut don't depend on later ones. */
const LOOK_AHEAD_BYTES = 32 * 1024;
/** A piece longer than this should begin in one window and end there: see `mayJoin`. */
const LARGE_PIECE_BYTES = 1024 * 1024;
/** A base range that is shorter than this, but too long when opened, touches two large pieces. */
const MIN_BASE_BYTES = 64 * 1024;
const EMPTY = new PieceMap([]);

/**
 * The map between an image and the opened image, in which all compressed pieces (and the compressed pieces in those) are replaced by their
 * plain bytes. Offsets are in either of the two. It only maps places, and reads no bytes.
 */
export class OpenedImage {
  readonly sizeBytes: number;
  readonly layers: readonly OpenedLayer[];
  readonly #outer: PieceMap;
  readonly #inner: PieceMap;

  constructor(sizeBytes: number, layers: readonly OpenedLayer[]) {
    this.sizeBytes = sizeBytes;
    this.layers = layers;
    this.#outer = layers[0]?.pieces ?? EMPTY;
    this.#inner = layers[1]?.pieces ?? EMPTY;
  }

  get openedBytes(): number {
    return this.sizeBytes + this.#outer.growthBytes + this.#inner.growthBytes;
  }

  toOpened(offset: number): number {
    return this.#inner.toPlain(this.#outer.toPlain(offset));
  }

  /**
   * The range of the image that gives a range of the opened one: whole pieces, or fewer where they exceed the bounds.
   * @param from @param to places in the opened image
   */
  baseRange(from: number, to: number): ImageRange {
    for (let [low, high] = [from, to]; ; ) {
      const range = this.#alignedRange(low, high);
      if (range !== undefined) return range;
      // Two blocks of a kernel are too long: takes the one at the end.
      if (high - low < MIN_BASE_BYTES) return withFewerPieces(this.rangeAround(high - 1, high));
      const less = Math.ceil((high - low) / 16);
      [low, high] = [low + less, high - less];
    }
  }

  /** The range of the image that gives a range of the opened one: whole pieces, without a bound. */
  rangeAround(from: number, to: number): ImageRange {
    const [low, high] = widen(this.#inner, from, to);
    return this.#range(...widen(this.#outer, low, high));
  }

  #alignedRange(from: number, to: number): ImageRange | undefined {
    const range = this.rangeAround(from, to);
    return range.length <= MAX_WINDOW_BASE_BYTES && openedBytesOf(range) <= MAX_OPENED_BASE_BYTES
      ? range
      : undefined;
  }

  /**
   * The whole opened image, in parts of about `partBytes` that don't end within a piece.
   * @returns for each part: its offset in the opened image, and its place in the range's opened bytes
   */
  *parts(
    partBytes: number,
  ): Generator<{ range: ImageRange; openedOffset: number; from: number; length: number }> {
    for (let at = 0; at < this.openedBytes; ) {
      const [low, high] = widen(this.#inner, at, Math.min(at + partBytes, this.openedBytes));
      const [offset, end] = widen(this.#outer, low, high);
      const next = this.#inner.toPlain(high);
      yield {
        range: this.#range(offset, end),
        openedOffset: at,
        from: low - this.#outer.toPlain(offset),
        length: next - at,
      };
      at = next;
    }
  }

  /**
   * The range of the image that is needed to make the target's bytes from `from` to `to`. It begins before and ends after them where
   * pieces do.
   */
  targetRange(from: number, to: number): ImageRange {
    const [offset, end] = around(this.#outer, from, to);
    const [innerFrom, innerTo] = [this.#outer.toPlain(offset), this.#outer.toPlain(end)];
    const index = this.#inner.endingAfter(innerFrom);
    let low = innerFrom;
    let high = innerTo;
    if (index < this.#inner.count) {
      const first = this.#inner.at(index);
      if (first.offset < low && low - first.offset <= MAX_HEAD_BYTES) low = first.offset;
      const last = this.#inner.endingAfter(innerTo - 1);
      if (last < this.#inner.count && this.#inner.at(last).offset < innerTo) {
        const piece = this.#inner.at(last);
        high = Math.max(innerTo, Math.min(piece.offset + piece.length, innerTo + LOOK_AHEAD_BYTES));
      }
    }
    const [widerFrom, widerTo] = widen(this.#outer, low, high);
    return this.#range(Math.min(offset, widerFrom), Math.max(end, widerTo), true);
  }

  /** About how long the opened target of these bytes is. A piece that is cut off at the end counts in proportion. */
  openedLength(from: number, to: number): number {
    const [offset, end] = around(this.#outer, from, to);
    const [innerFrom, innerTo] = [this.#outer.toPlain(offset), this.#outer.toPlain(end)];
    let length = this.#inner.toPlain(innerTo) - this.#inner.toPlain(innerFrom);
    const first = this.#pieceAt(innerFrom);
    // It isn't opened: see `targetRange`.
    if (first !== undefined && innerFrom - first.offset > MAX_HEAD_BYTES)
      length += Math.min(innerTo, first.offset + first.length) - innerFrom - first.plainLength;
    const last = this.#pieceAt(innerTo);
    if (last !== undefined && last !== first)
      length += (last.plainLength * (innerTo - last.offset)) / last.length;
    return Math.max(length, innerTo - innerFrom);
  }

  /**
   * Whether a window that begins at `from` may be extended from `at` to `to`. A block of a kernel is nearly as long as an opened target may
   * be, so a window ends after the chunk in which such a block begins, and the next window holds the whole block.
   */
  mayJoin(from: number, at: number, to: number, maxOpenedBytes: number): boolean {
    const opened = this.openedLength(from, to);
    const large = this.#pieceAt(nearPlain(this.#outer, at) - 1);
    if (large === undefined || large.plainLength < LARGE_PIECE_BYTES) return opened <= maxOpenedBytes;
    return nearPlain(this.#outer, from) > large.offset && opened <= MAX_OPENED_TARGET_BYTES;
  }

  /** The piece of the inner layer that holds this byte. */
  #pieceAt(offset: number): Piece | undefined {
    const index = this.#inner.endingAfter(offset);
    const piece = index < this.#inner.count ? this.#inner.at(index) : undefined;
    return piece !== undefined && piece.offset <= offset ? piece : undefined;
  }

  #range(offset: number, end: number, isCutOff = false): ImageRange {
    let [from, to] = [offset, end];
    const layers = this.layers.map(({ codec, parameter, pieces }, depth) => {
      const layer = { codec, parameter, pieces: piecesIn(pieces, from, to, isCutOff && depth === 1) };
      [from, to] = [pieces.toPlain(from), pieces.toPlain(to)];
      return layer;
    });
    // Bytes outside of pieces are the same before and after opening.
    return { offset, length: end - offset, layers: layers.filter(({ pieces }) => pieces.length > 0) };
  }
}

function openedBytesOf({ length, layers }: ImageRange): number {
  return layers.reduce(
    (sum, { pieces }) => pieces.reduce((all, piece) => all + piece.plainLength - piece.length, sum),
    length,
  );
}

/**
 * Leaves out pieces of the innermost layer until the opened range fits its bound; the longest ones stay. This is needed where a whole piece
 * lies in the same outer block as the end of another one: the end of a kernel is nearly all zeros. The pieces left out stay compressed.
 */
function withFewerPieces(range: ImageRange): ImageRange {
  const outer = range.layers.slice(0, -1);
  const innermost = range.layers.at(-1);
  if (innermost === undefined || openedBytesOf(range) <= MAX_OPENED_BASE_BYTES) return range;
  const kept = new Set<Piece>();
  const withKept = (): ImageRange => {
    const pieces = innermost.pieces.filter(piece => kept.has(piece));
    return { ...range, layers: pieces.length === 0 ? outer : [...outer, { ...innermost, pieces }] };
  };
  for (const piece of [...innermost.pieces].sort((one, other) => other.length - one.length)) {
    kept.add(piece);
    if (openedBytesOf(withKept()) > MAX_OPENED_BASE_BYTES) kept.delete(piece);
  }
  return withKept();
}

/** The whole pieces in a range, with offsets in it; with `isCutOff` also the one at its end. */
function piecesIn(map: PieceMap, from: number, to: number, isCutOff: boolean): Piece[] {
  const pieces: Piece[] = [];
  for (let index = map.endingAfter(from); index < map.count; index++) {
    const { offset, length, plainLength } = map.at(index);
    if (offset >= to) break;
    if (offset >= from && (isCutOff || offset + length <= to))
      pieces.push({ offset: offset - from, length, plainLength });
  }
  return pieces;
}

/** The range whose opened bytes contain this range. Pieces at its ends are included as a whole. */
function widen(map: PieceMap, from: number, to: number): [from: number, to: number] {
  const last = map.plainEndingAfter(to - 1);
  const lastPiece = last < map.count ? map.at(last) : undefined;
  const isInPiece = lastPiece !== undefined && lastPiece.plainOffset < to;
  return [map.toImage(from), isInPiece ? lastPiece.offset + lastPiece.length : map.toImage(to)];
}

/** Where a byte of the image lies in the opened one; within a piece, by proportion. */
function nearPlain(map: PieceMap, offset: number): number {
  const index = map.endingAfter(offset);
  const piece = index < map.count ? map.at(index) : undefined;
  if (piece === undefined || piece.offset >= offset) return map.toPlain(offset);
  return piece.plainOffset + ((offset - piece.offset) * piece.plainLength) / piece.length;
}

/** The range, extended to whole pieces at both ends. */
function around(map: PieceMap, from: number, to: number): [from: number, to: number] {
  const first = map.endingAfter(from);
  const last = map.endingAfter(to - 1);
  const firstPiece = first < map.count ? map.at(first) : undefined;
  const lastPiece = last < map.count ? map.at(last) : undefined;
  return [
    firstPiece === undefined ? from : Math.min(from, firstPiece.offset),
    lastPiece !== undefined && lastPiece.offset < to ? Math.max(to, lastPiece.offset + lastPiece.length) : to,
  ];
}

/** The layers of a base range in the form of a patch's views. */
export function baseLayers(layers: readonly RangeLayer[]): BaseLayer[] {
  return layers.map(({ codec, pieces }) => {
    let end = 0;
    return {
      codec,
      pieces: pieces.map(({ offset, length, plainLength }) => {
        const rawBefore = offset - end;
        end = offset + length;
        return { rawBefore, compressedLength: length, plainLength };
      }),
    };
  });
}

import {
  type BaseLayer,
  decodeLz4Beginning,
  MAX_OPENED_TARGET_BYTES,
  MAX_PIECE_BYTES,
  openBase,
  pieceCodec,
  type TargetLayer,
} from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { baseLayers, MAX_LOOKED_AT_BYTES, type RangeLayer } from './opened-image.ts';
import type { Piece } from './piece-map.ts';

/** Bytes with their layers of pieces. */
export interface RangeBytes {
  readonly bytes: Uint8Array;
  readonly layers: readonly RangeLayer[];
}

/** A window's target, opened as far as it can be closed to the same bytes. */
export interface ClosableTarget {
  readonly plain: Uint8Array;
  readonly layers: TargetLayer[];
  /** Compressed pieces that the encoder would make differently. They stay closed. */
  readonly inexact: Uint8Array[];
  /** The codecs of all layers that were opened or tried: the base is opened to the same depth. */
  readonly opened: string[];
}

/** Where a window lies in bytes. */
interface Place {
  readonly from: number;
  readonly to: number;
}

/** How many bytes after the wanted ones of an LZ4 block are opened, too, so that its encoder makes the same choices as for the whole block. */
const LOOK_AHEAD_BYTES = 32 * 1024;
const LZ4 = 'lz4hc-1.9.4';

/**
 * Opens those pieces of a window's target that their encoder makes again with the same bytes. A target that would be too long stays
 * closed.
 */
export function openTarget(range: RangeBytes, place: Place): ClosableTarget {
  for (let depth = range.layers.length; depth > 0; depth--) {
    const layers = range.layers.slice(0, depth);
    for (const tried of [layers, withoutLastPiece(layers)]) {
      const opened = openLayersOrNone({ ...range, layers: tried }, place);
      if (opened !== undefined && opened.plain.length <= MAX_OPENED_TARGET_BYTES) return opened;
    }
  }
  return { plain: range.bytes.subarray(place.from, place.to), layers: [], inexact: [], opened: [] };
}

/**
 * Without the last piece of the innermost layer: the window may hold only the short beginning of a kernel's block, which is long when
 * opened.
 */
function withoutLastPiece(layers: readonly RangeLayer[]): RangeLayer[] {
  return layers.map((layer, depth) =>
    depth === layers.length - 1 ? { ...layer, pieces: layer.pieces.slice(0, -1) } : layer,
  );
}

function openLayersOrNone(range: RangeBytes, place: Place): ClosableTarget | undefined {
  try {
    return openLayers(range, place);
  } catch (error) {
    // The opened bytes for this window would be too long.
    if (error instanceof SitecastError && error.code === 'SITECAST_PATCH_RANGE') return undefined;
    throw error;
  }
}

function openLayers({ bytes, layers }: RangeBytes, place: Place): ClosableTarget {
  let closed = bytes;
  let { from, to } = place;
  let plain = bytes.subarray(from, to);
  const views: TargetLayer[] = [];
  const inexact: Uint8Array[] = [];
  const codecs: string[] = [];
  for (const [depth, layer] of layers.entries()) {
    codecs.push(layer.codec);
    const opened = openExact(closed, layer, { from, to });
    inexact.push(...opened.inexact);
    if (opened.view.pieces.length > 0) {
      views.push(opened.view);
      ({ plain } = opened);
    }
    if (depth === layers.length - 1 || inexact.length > 0) break;
    [from, to] = [openedOffset(layer.pieces, opened.place.from), openedOffset(layer.pieces, opened.place.to)];
    closed = openBase(closed, baseLayers([layer]), { maxBytes: MAX_LOOKED_AT_BYTES });
    plain = closed.subarray(from, to);
  }
  return { plain, layers: views, inexact, opened: views.length === 0 ? [] : codecs };
}

interface OpenedExactly {
  readonly view: TargetLayer;
  readonly plain: Uint8Array;
  /** The range of the closed bytes, before the head is cut off. */
  readonly place: Place;
  readonly inexact: Uint8Array[];
}

function openExact(
  closed: Uint8Array,
  { codec, parameter, pieces }: RangeLayer,
  { from, to }: Place,
): OpenedExactly {
  const parts: Uint8Array[] = [];
  const inexact: Uint8Array[] = [];
  const exact: TargetLayer['pieces'][number][] = [];
  let start = from;
  let end = from;
  for (const piece of pieces) {
    const { offset, length } = piece;
    if (offset + length <= from || offset >= to) continue;
    const own = parameterOf(codec, closed.subarray(offset, offset + length)) ?? parameter;
    const plain = openAndClose(closed, { codec, parameter: own }, piece, to);
    if (plain === undefined) {
      inexact.push(closed.subarray(offset, offset + length));
      continue;
    }
    if (offset < end) {
      start = offset;
      end = offset;
    }
    const lengths = { rawBefore: offset - end, plainLength: plain.length };
    exact.push(own === parameter ? lengths : { ...lengths, parameter: own });
    parts.push(closed.subarray(end, offset), plain);
    end = offset + length;
  }
  if (end < to) parts.push(closed.subarray(end, to));
  return {
    view: { codec, parameter, headBytes: from - start, pieces: exact },
    plain: Buffer.concat(parts),
    place: { from: start, to: Math.max(end, to) },
    inexact,
  };
}

/** The parameter that this piece was made with, for codecs whose pieces show it. */
function parameterOf(codec: string, bytes: Uint8Array): number | undefined {
  try {
    return pieceCodec(codec).parameterOf?.(bytes);
  } catch (error) {
    // It can't be opened either.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

/**
 * The piece's plain bytes, or as many as are needed to make its compressed bytes before `to`; undefined where its encoder makes other
 * bytes.
 */
function openAndClose(
  closed: Uint8Array,
  { codec, parameter }: Pick<RangeLayer, 'codec' | 'parameter'>,
  { offset, length, plainLength }: Piece,
  to: number,
): Uint8Array | undefined {
  const encoder = pieceCodec(codec);
  const wanted = closed.subarray(offset, Math.min(offset + length, to));
  try {
    const isCut = codec === LZ4 && offset + length > to + LOOK_AHEAD_BYTES;
    const into = new Uint8Array(isCut ? MAX_PIECE_BYTES : plainLength);
    const opened = isCut
      ? decodeLz4Beginning(closed.subarray(offset, to + LOOK_AHEAD_BYTES), into)
      : encoder.decode(closed.subarray(offset, offset + length), into);
    const plain = into.subarray(0, opened);
    const again = new Uint8Array(wanted.length);
    const lengthAgain = encoder.encode(plain, parameter, again);
    const isExact = isCut ? lengthAgain >= wanted.length : lengthAgain === length;
    return isExact && Buffer.compare(again, wanted) === 0 ? plain : undefined;
  } catch (error) {
    // A block that is cut off, or for which its encoder has no memory.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

/** Where the bytes from `offset` on lie when all pieces are opened. `offset` must be outside of pieces. */
function openedOffset(pieces: readonly Piece[], offset: number): number {
  return pieces.reduce(
    (sum, piece) => (piece.offset + piece.length <= offset ? sum + piece.plainLength - piece.length : sum),
    offset,
  );
}

/**
 * Opens a base range to the depth of the target. Pieces that the target keeps closed (`inexact`) stay closed in the base as well, so that
 * their compressed bytes match.
 */
export function openBaseFor(
  { bytes, layers }: RangeBytes,
  target: ClosableTarget,
): { plain: Uint8Array; layers: BaseLayer[] } {
  const views: BaseLayer[] = [];
  let plain = bytes;
  for (const layer of layers) {
    if (!target.opened.includes(layer.codec)) break;
    const closed = plain;
    const pieces = layer.pieces.filter(piece => !isAmong(target.inexact, closed, piece));
    const view = baseLayers([{ ...layer, pieces }]);
    views.push(...view);
    plain = openBase(closed, view);
    // Offsets of the next layer hold only where all pieces of this one are opened.
    if (pieces.length < layer.pieces.length) break;
  }
  return { plain, layers: views };
}

function isAmong(pieces: readonly Uint8Array[], bytes: Uint8Array, { offset, length }: Piece): boolean {
  const own = bytes.subarray(offset, offset + length);
  return pieces.some(piece => piece.length === length && Buffer.compare(piece, own) === 0);
}

/** Opens the whole range, to take samples of its content. A piece that is cut off stays closed. */
export function openAll({ bytes, layers }: RangeBytes): Uint8Array {
  let opened = bytes;
  for (const layer of layers) {
    const { length } = opened;
    const pieces = layer.pieces.filter(piece => piece.offset + piece.length <= length);
    opened = openBase(opened, baseLayers([{ ...layer, pieces }]), { maxBytes: MAX_LOOKED_AT_BYTES });
  }
  return opened;
}

import { SitecastError } from '../errors.ts';
import { ByteReader, ByteWriter } from './bytes.ts';
import { PIECE_CODECS, type PieceCodec, pieceCodec } from './encoders/index.ts';
import {
  MAX_OPENED_BASE_BYTES,
  MAX_OPENED_TARGET_BYTES,
  MAX_PIECE_BYTES,
  MAX_VIEW_PIECES,
} from './limits.ts';
import { readPatch } from './patch.ts';

// How a patch opens compressed pieces. All numbers are LEB128 varints.
//   uint layers of the base, each: uint codec, pieces, then a column of their compressed lengths
//   uint layers of the target, each: uint codec, uint parameter, uint head, pieces; where pieces of the codec have parameters of their own, a column
//     of them: uint parameter + 1, or 0 for the layer's
//   pieces: uint count, uint usual plain length, then as columns: uint raw bytes before each; uint plain length + 1, or 0 for the usual one
// Bytes behind the last piece of a layer are raw.
const CODES = { truncated: 'SITECAST_PATCH_TRUNCATED', invalid: 'SITECAST_PATCH_INVALID' } as const;

/** An image can be compressed twice, such as a kernel in a squashfs. */
const MAX_LAYERS = 2;

/** The highest parameter of an encoder. */
const MAX_PARAMETER = 2 ** 16;

/** A piece of a layer, with the bytes before it. All lengths in bytes. */
interface LayerPiece {
  /** Bytes between the piece before and this one, which are not compressed. */
  readonly rawBefore: number;
  readonly plainLength: number;
}

/** A layer of the base: pieces that are decompressed. */
export interface BaseLayer {
  /** Name of a `PieceCodec`. */
  readonly codec: string;
  readonly pieces: readonly (LayerPiece & { readonly compressedLength: number })[];
}

/** A layer of the target: pieces that are compressed again. */
export interface TargetLayer {
  /** Name of a `PieceCodec`. */
  readonly codec: string;
  readonly parameter: number;
  /** Bytes of this layer's result that lie before the window, where its first piece begins before it. */
  readonly headBytes: number;
  readonly pieces: readonly TargetPiece[];
}

interface TargetPiece extends LayerPiece {
  /** The piece's own parameter, where it differs from the layer's; only for codecs with `parameterOf`. */
  readonly parameter?: number;
}

/** How base range and target of a window are opened. Outermost layer first. */
export interface Views {
  readonly base: readonly BaseLayer[];
  readonly target: readonly TargetLayer[];
}

/** Where opened and closed bytes are kept. */
export interface ViewMemory {
  /** Zeroed memory of that length. */
  fresh(lengthBytes: number): Uint8Array;
  /** Called with how many bytes aren't needed any more. */
  discard(lengthBytes: number): void;
  /** Collects garbage. */
  release(): void;
}

/** Plain allocation. */
export const HEAP: ViewMemory = {
  fresh: lengthBytes => new Uint8Array(lengthBytes),
  discard: () => {},
  release: () => {},
};

/** Memory for a piece that begins before the window: the longest piece, plus what compression adds to incompressible bytes. */
const MAX_BESIDE_BYTES = MAX_PIECE_BYTES + MAX_PIECE_BYTES / 128;

/** Writes what `readViews` reads. */
export function writeViews({ base, target }: Views): Buffer {
  const writer = new ByteWriter();
  writer.uint(base.length);
  for (const { codec, pieces } of base) {
    writer.uint(pieceCodec(codec).id);
    writePieces(writer, pieces);
    for (const { compressedLength } of pieces) writer.uint(compressedLength);
  }
  writer.uint(target.length);
  for (const { codec: name, parameter, headBytes, pieces } of target) {
    const codec = pieceCodec(name);
    writer.uint(codec.id);
    writer.uint(parameter);
    writer.uint(headBytes);
    writePieces(writer, pieces);
    if (codec.parameterOf === undefined) continue;
    for (const piece of pieces)
      writer.uint(piece.parameter === undefined || piece.parameter === parameter ? 0 : piece.parameter + 1);
  }
  return writer.finish();
}

function writePieces(writer: ByteWriter, pieces: readonly LayerPiece[]): void {
  const usual = pieces.reduce((longest, { plainLength }) => Math.max(longest, plainLength), 0);
  writer.uint(pieces.length);
  writer.uint(usual);
  for (const { rawBefore } of pieces) writer.uint(rawBefore);
  for (const { plainLength } of pieces) writer.uint(plainLength === usual ? 0 : plainLength + 1);
}

/**
 * Reads the views of a patch. Anyone with the key that signs recipes can have written them. @throws SITECAST_PATCH_TRUNCATED,
 * SITECAST_PATCH_INVALID, SITECAST_PATCH_VIEWS
 */
export function readViews(bytes: Uint8Array): Views {
  const reader = new ByteReader(bytes, 'patch', CODES);
  const base = Array.from({ length: reader.uint('the layers of the base', MAX_LAYERS) }, () => {
    const { name: codec, maxPieceBytes } = readCodec(reader);
    const pieces = readPieces(reader, MAX_OPENED_BASE_BYTES, maxPieceBytes);
    return {
      codec,
      pieces: pieces.map(piece => ({
        ...piece,
        compressedLength: reader.uint('the length of a compressed piece', maxPieceBytes),
      })),
    };
  });
  const target = Array.from({ length: reader.uint('the layers of the target', MAX_LAYERS) }, () => {
    const codec = readCodec(reader);
    const parameter = takenBy(codec, reader.uint('the parameter of an encoder', MAX_PARAMETER), reader);
    const headBytes = reader.uint('the head of a layer', MAX_OPENED_TARGET_BYTES);
    const pieces = readPieces(reader, MAX_OPENED_TARGET_BYTES, codec.maxPieceBytes);
    const own =
      codec.parameterOf === undefined ? pieces : pieces.map(piece => ownParameter(codec, piece, reader));
    return { codec: codec.name, parameter, headBytes, pieces: own };
  });
  reader.end();
  return { base, target };
}

/** Names of the codecs that a patch needs, each once: a device must have them all. @throws SITECAST_PATCH_… */
export function encodersIn(patch: Uint8Array): string[] {
  const { views } = readPatch(patch);
  if (views === undefined) return [];
  const { base, target } = readViews(views);
  return [...new Set([...base, ...target].map(({ codec }) => codec))];
}

function ownParameter(codec: PieceCodec, piece: LayerPiece, reader: ByteReader): TargetPiece {
  const coded = reader.uint('the parameter of a piece', MAX_PARAMETER + 1);
  return coded === 0 ? piece : { ...piece, parameter: takenBy(codec, coded - 1, reader) };
}

function takenBy(codec: PieceCodec, parameter: number, reader: ByteReader): number {
  if (!codec.takes(parameter)) throw reader.invalid(`${codec.name} doesn't take ${parameter}`);
  return parameter;
}

function readCodec(reader: ByteReader): PieceCodec {
  const id = reader.uint('a codec', MAX_PARAMETER);
  const codec = PIECE_CODECS.find(known => known.id === id);
  if (codec === undefined) {
    throw new SitecastError(
      'badInput',
      'SITECAST_PATCH_VIEWS',
      `the patch wants codec ${id}, which isn't known here`,
    );
  }
  if (!codec.isInstalled()) {
    throw new SitecastError(
      'badInput',
      'SITECAST_PATCH_VIEWS',
      `the patch wants codec ${codec.name}, which isn't installed`,
    );
  }
  return codec;
}

function readPieces(reader: ByteReader, maxBytes: number, maxPieceBytes: number): LayerPiece[] {
  const count = reader.uint('the number of pieces', MAX_VIEW_PIECES);
  const usual = reader.uint('the usual length of a piece', maxPieceBytes);
  const raws = Array.from({ length: count }, () => reader.uint('what lies between pieces', maxBytes));
  let total = 0;
  return raws.map(rawBefore => {
    const coded = reader.uint('the length of a piece', maxPieceBytes + 1);
    const plainLength = coded === 0 ? usual : coded - 1;
    total += rawBefore + plainLength;
    if (total > maxBytes) throw reader.invalid(`its pieces have more than ${maxBytes} bytes`);
    return { rawBefore, plainLength };
  });
}

/**
 * Opens a base range, layer by layer. An altered base is noticed here, as a piece that can't be opened, or later, as a wrong chunk.
 * @param maxBytes of each layer's result
 * @returns at most `maxBytes`
 * @throws SITECAST_PATCH_PIECE, SITECAST_PATCH_RANGE
 */
export function openBase(
  range: Uint8Array,
  layers: readonly BaseLayer[],
  { memory = HEAP, maxBytes = MAX_OPENED_BASE_BYTES }: { memory?: ViewMemory; maxBytes?: number } = {},
): Uint8Array {
  return layers.reduce((bytes, layer) => openLayer(bytes, layer, memory, maxBytes), range);
}

function openLayer(
  range: Uint8Array,
  { codec: name, pieces }: BaseLayer,
  memory: ViewMemory,
  maxBytes: number,
): Uint8Array {
  const codec = pieceCodec(name);
  let opened = range.length;
  let needed = 0;
  for (const { rawBefore, compressedLength, plainLength } of pieces) {
    opened += plainLength - compressedLength;
    needed += rawBefore + compressedLength;
  }
  if (needed > range.length) throw outOfRange(`pieces of ${needed} bytes in a base of ${range.length}`);
  if (opened > maxBytes) throw outOfRange(`an opened base of ${opened} bytes`);
  const out = memory.fresh(opened);
  let from = 0;
  let to = 0;
  for (const { rawBefore, compressedLength, plainLength } of pieces) {
    out.set(range.subarray(from, from + rawBefore), to);
    from += rawBefore;
    to += rawBefore;
    const length = codec.decode(
      range.subarray(from, from + compressedLength),
      out.subarray(to, to + plainLength),
    );
    if (length !== plainLength) throw outOfRange(`a piece of ${length} bytes instead of ${plainLength}`);
    memory.discard(codec.garbageOf(plainLength));
    from += compressedLength;
    to += plainLength;
  }
  out.set(range.subarray(from), to);
  return out;
}

/** The only reference to some bytes, so that the callee can release them while it makes others from them. */
export interface HeldBytes {
  bytes: Uint8Array;
}

/**
 * Compresses the pieces of a rebuilt target again, innermost layer first, and cuts off the bytes outside of the window.
 * @returns exactly `lengthBytes`
 * @throws SITECAST_PATCH_PIECE, SITECAST_PATCH_RANGE
 */
export function closeTarget(
  plain: Uint8Array,
  layers: readonly TargetLayer[],
  lengthBytes: number,
): Uint8Array {
  const into = new Uint8Array(lengthBytes);
  closeInto({ bytes: plain }, layers, into, { memory: HEAP });
  return into;
}

/**
 * Like `closeTarget`, but fills `into`. @param spare MAX_OPENED_TARGET_BYTES that may be overwritten where there are two layers; must not
 * hold `target` then
 */
export function closeInto(
  target: HeldBytes,
  layers: readonly TargetLayer[],
  into: Uint8Array,
  { memory, spare }: { memory: ViewMemory; spare?: Uint8Array | undefined },
): void {
  const [outermost, innermost] = layers;
  if (innermost !== undefined) {
    closeInner(target, innermost, spare ?? memory.fresh(MAX_OPENED_TARGET_BYTES), memory);
    memory.release();
  }
  const length = outermost === undefined ? copy(target, into) : closeOuter(target, outermost, into, memory);
  if (length !== into.length) throw outOfRange(`a target of ${length} bytes instead of ${into.length}`);
}

function closeInner(target: HeldBytes, layer: TargetLayer, into: Uint8Array, memory: ViewMemory): void {
  target.bytes = into.subarray(0, closeLayer(target.bytes, layer, into, memory));
}

function closeOuter(target: HeldBytes, layer: TargetLayer, into: Uint8Array, memory: ViewMemory): number {
  return closeLayer(target.bytes, layer, into, memory);
}

function copy({ bytes }: HeldBytes, into: Uint8Array): number {
  into.set(bytes.subarray(0, into.length));
  return bytes.length;
}

/**
 * @param into bytes that don't fit are dropped: they belong to a piece that ends outside of the window @returns how many bytes of it are
 * filled
 */
function closeLayer(
  plain: Uint8Array,
  { codec: name, parameter, headBytes, pieces }: TargetLayer,
  into: Uint8Array,
  memory: ViewMemory,
): number {
  const codec = pieceCodec(name);
  const closed = new ClosedBytes(into, headBytes, memory);
  let from = 0;
  for (const { rawBefore, plainLength, parameter: own = parameter } of pieces) {
    if (from + rawBefore + plainLength > plain.length)
      throw outOfRange(`pieces beyond a target of ${plain.length} bytes`);
    closed.add(plain.subarray(from, from + rawBefore));
    from += rawBefore;
    const piece = plain.subarray(from, from + plainLength);
    closed.encode(plainLength, room => codec.encode(piece, own, room));
    memory.discard(codec.garbageOf(plainLength));
    from += plainLength;
  }
  closed.add(plain.subarray(from));
  return closed.finish();
}

/** The closed bytes of a layer, without its head and without bytes that don't fit. */
class ClosedBytes {
  readonly #into: Uint8Array;
  readonly #memory: ViewMemory;
  /** Where the next bytes go; negative within the head. */
  #at: number;
  #beside: Uint8Array | undefined;

  constructor(into: Uint8Array, headBytes: number, memory: ViewMemory) {
    this.#into = into;
    this.#at = -headBytes;
    this.#memory = memory;
  }

  add(bytes: Uint8Array): void {
    const head = Math.min(bytes.length, Math.max(0, -this.#at));
    const to = Math.max(0, this.#at);
    if (to < this.#into.length) this.#into.set(bytes.subarray(head, head + this.#into.length - to), to);
    this.#at += bytes.length;
  }

  /** Adds a piece. It is compressed in place, unless it begins in the head. */
  encode(plainLength: number, write: (into: Uint8Array) => number): void {
    if (this.#at >= 0) {
      this.#at += write(this.#into.subarray(this.#at));
      return;
    }
    this.#beside ??= this.#memory.fresh(MAX_BESIDE_BYTES);
    const length = write(this.#beside.subarray(0, MAX_BESIDE_BYTES));
    if (length > MAX_BESIDE_BYTES) throw outOfRange(`a piece of ${plainLength} bytes that becomes ${length}`);
    this.add(this.#beside.subarray(0, length));
  }

  finish(): number {
    if (this.#at < 0) throw outOfRange(`a head that is ${-this.#at} bytes longer than its layer`);
    return Math.min(this.#at, this.#into.length);
  }
}

function outOfRange(what: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_PATCH_RANGE', `the patch opens or closes ${what}`);
}

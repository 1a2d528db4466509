import { SitecastError } from '../errors.ts';
import { ByteReader, ByteWriter } from './bytes.ts';
import { decodeStream } from './codecs/index.ts';
import { badStream, STREAM_CODECS, type StreamCodec } from './codecs/stream-codec.ts';
import { MAX_CONTROL_BYTES, MAX_OPENED_TARGET_BYTES, MAX_PATCH_BYTES, MAX_TRIPLES } from './limits.ts';

// The patch of one window. All numbers are LEB128 varints.
//   magic    byte 0xdc, byte format
// coding   byte: bits 0-1 codec of the control stream, 2-3 of diff, 4-5 of extra (STREAM_CODECS), bit 6: views follow the lengths
//   lengths  uint target length, uint triples, uint plain and coded length of control, uint coded length of diff;
//            those of diff and extra follow from the triples; extra's coded bytes are all that is left
//   views    where bit 6 is set: uint length, bytes (views.ts)
//   streams  control, diff, extra
// Control is three columns: the bytes to add of each triple, the bytes to insert, and (zigzag-coded) the bytes to skip in the base.
const MAGIC = 0xdc;
const FORMAT = 1;
const VIEWS_BIT = 0x40;
const MAX_VIEWS_BYTES = MAX_PATCH_BYTES;

const CODES = { truncated: 'SITECAST_PATCH_TRUNCATED', invalid: 'SITECAST_PATCH_INVALID' } as const;

/** The numbers of one triple in `PatchStreams.control`. */
export const TRIPLE_NUMBERS = 3;

/** bsdiff's three streams, as `BSDIFF40` has them. */
export interface PatchStreams {
  /**
   * Three numbers a triple: `add`, how many bytes of `diff` are added to bytes of the base at its current place; `insert`, how many bytes
   * of `extra` follow; `skip`, how far the place in the base then moves, besides the bytes added.
   */
  readonly control: Int32Array;
  readonly diff: Uint8Array;
  readonly extra: Uint8Array;
}

/** How the maker codes a stream. */
export interface StreamEncoder {
  readonly codec: Exclude<StreamCodec, 'stored'>;
  /**
   * - `bzip2`: a whole `.bz2` file of one stream, as `bzip2 -9` writes it. `encodePatch` leaves out what a decoder that knows the
   *   length doesn't need.
   * - `lzma`: one byte of properties ((pb * 5 + lp) * 9 + lc, with lc + lp at most 4), then the raw LZMA stream (LZMA1, with or without
   *   end marker) including its first byte, which is always 0. The dictionary is at most 8 MiB. From a `.lzma` file: byte 0, then all from byte 13.
   */
  encode(plain: Uint8Array): CodedOrNone | Promise<CodedOrNone>;
}

/** Undefined where the result would be longer than that of another encoder. */
type CodedOrNone = Uint8Array | undefined;

/** A patch as it was read. Nothing is decoded; streams are views into the bytes. */
export interface Patch {
  /** Length of the result in bytes; with views, of the opened target. */
  readonly targetLength: number;
  readonly tripleCount: number;
  readonly controlLength: number;
  readonly control: CodedStream;
  readonly diff: CodedStream;
  readonly extra: CodedStream;
  /** How pieces of base and target are opened (views.ts); undefined: none are. */
  readonly views: Uint8Array | undefined;
}

interface CodedStream {
  readonly codec: StreamCodec;
  readonly bytes: Uint8Array;
}

/**
 * Writes the patch of one window. Each stream is stored, or coded by the one of `encoders` that makes it smallest. Its coded bytes are
 * decoded again and compared, so every written patch can be applied.
 * @param views the bytes of the opened views (views.ts), for windows that have some
 * @throws SITECAST_PATCH_TOO_LARGE where the patch would be longer than a patch may be, or has too many triples: the window isn't worth a
 * patch
 */
export async function encodePatch(
  streams: PatchStreams,
  encoders: readonly StreamEncoder[],
  views?: Uint8Array,
): Promise<Buffer> {
  const triples = normalized(streams.control);
  const tripleCount = triples.length / TRIPLE_NUMBERS;
  if (tripleCount > MAX_TRIPLES) throw tooLarge(`${tripleCount} control triples`);
  const plainControl = columns(triples);
  const control = await smallest(plainControl, encoders);
  const diff = await smallest(streams.diff, encoders);
  const extra = await smallest(streams.extra, encoders);
  const writer = new ByteWriter();
  writer.byte(MAGIC);
  writer.byte(FORMAT);
  const coding = [control, diff, extra].reduce(
    (bits, { codec }, at) => bits | (STREAM_CODECS.indexOf(codec) << (at * 2)),
    views === undefined ? 0 : VIEWS_BIT,
  );
  writer.byte(coding);
  writer.uint(streams.diff.length + streams.extra.length);
  writer.uint(tripleCount);
  writer.uint(plainControl.length);
  writer.uint(control.bytes.length);
  writer.uint(diff.bytes.length);
  if (views !== undefined) {
    writer.uint(views.length);
    writer.add(views);
  }
  for (const { bytes } of [control, diff, extra]) writer.add(bytes);
  const patch = writer.finish();
  if (patch.length > MAX_PATCH_BYTES) throw tooLarge(`${patch.length} bytes`);
  return patch;
}

function tooLarge(what: string): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_PATCH_TOO_LARGE',
    `a patch of ${what} is not worth its window`,
  );
}

/**
 * bsdiff's triples without those that add and insert nothing: their skips are added to the one before. The last skip is dropped, as it has
 * no effect.
 */
function normalized(control: Int32Array): Int32Array {
  const out = new Int32Array(control.length);
  let used = 0;
  for (let at = 0; at + 2 < control.length; at += TRIPLE_NUMBERS) {
    const add = control[at] ?? 0;
    const insert = control[at + 1] ?? 0;
    const skip = control[at + 2] ?? 0;
    if (add === 0 && insert === 0 && used > 0) out[used - 1] = (out[used - 1] ?? 0) + skip;
    else {
      out.set([add, insert, skip], used);
      used += TRIPLE_NUMBERS;
    }
  }
  if (used > 0) out[used - 1] = 0;
  return out.subarray(0, used);
}

function columns(triples: Int32Array): Buffer {
  const writer = new ByteWriter();
  for (let at = 0; at < triples.length; at += TRIPLE_NUMBERS) writer.uint(triples[at] ?? 0);
  for (let at = 1; at < triples.length; at += TRIPLE_NUMBERS) writer.uint(triples[at] ?? 0);
  for (let at = 2; at < triples.length; at += TRIPLE_NUMBERS) writer.int(triples[at] ?? 0);
  return writer.finish();
}

async function smallest(plain: Uint8Array, encoders: readonly StreamEncoder[]): Promise<CodedStream> {
  let best: CodedStream = { codec: 'stored', bytes: plain };
  if (plain.length === 0) return best;
  for (const encoder of encoders) {
    const { codec } = encoder;
    const coded = await encoder.encode(plain);
    if (coded === undefined) continue;
    const bytes = withoutHead(codec, coded);
    if (bytes.length < best.bytes.length) best = { codec, bytes };
  }
  return best.codec === 'stored' ? best : { ...best, bytes: trimmed(best.codec, best.bytes, plain) };
}

/** Removes what decoders don't expect: `BZh`, and the 0 that begins each LZMA stream. */
function withoutHead(codec: StreamCodec, coded: Uint8Array): Uint8Array {
  if (codec === 'bzip2') return coded.subarray(3);
  return Buffer.concat([coded.subarray(0, 1), coded.subarray(2)]);
}

/** How many of the last bytes that the decoder read may be left out. */
const MAX_TRIMMED_BYTES = 5;
/** Shortening means decoding again and again, so a longer stream isn't shortened. */
const LONGEST_TRIMMED_BYTES = 16 * 1024;

/** The beginning of a coded stream that the decoder needs; for a short stream, the shortest beginning that still decodes to the same bytes. */
function trimmed(codec: StreamCodec, coded: Uint8Array, plain: Uint8Array): Uint8Array {
  const decoded = new Uint8Array(plain.length);
  const used = decodeStream(codec, coded, decoded);
  if (Buffer.compare(decoded, plain) !== 0) throw badStream(codec, 'it decodes to other bytes');
  if (used > LONGEST_TRIMMED_BYTES) return coded.subarray(0, used);
  for (let length = Math.max(1, used - MAX_TRIMMED_BYTES); length < used; length += 1) {
    try {
      decodeStream(codec, coded.subarray(0, length), decoded);
      if (Buffer.compare(decoded, plain) === 0) return coded.subarray(0, length);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
    }
  }
  return coded.subarray(0, Math.min(used, coded.length));
}

/**
 * Reads a patch without decoding its streams.
 * @throws SITECAST_PATCH_FORMAT for one of an unknown format; SITECAST_PATCH_TRUNCATED, SITECAST_PATCH_INVALID
 */
export function readPatch(bytes: Uint8Array): Patch {
  const reader = new ByteReader(bytes, 'patch', CODES);
  if (bytes.length > MAX_PATCH_BYTES) throw reader.invalid(`it has ${bytes.length} bytes`);
  if (reader.byte() !== MAGIC) throw reader.invalid('it does not begin as one');
  const format = reader.byte();
  if (format !== FORMAT)
    throw new SitecastError(
      'badInput',
      'SITECAST_PATCH_FORMAT',
      `patches of format ${format} are not known here`,
    );
  const coding = reader.byte();
  if (coding >= VIEWS_BIT * 2) throw reader.invalid('its coding is not known');
  const codec = (shift: number): StreamCodec => {
    const known = STREAM_CODECS[(coding >> shift) & 3];
    if (known === undefined) throw reader.invalid('the codec of a stream is not known');
    return known;
  };
  const codecs = [codec(0), codec(2), codec(4)] as const;
  const targetLength = reader.uint('the length of the target', MAX_OPENED_TARGET_BYTES);
  const tripleCount = reader.uint('the number of control triples', MAX_TRIPLES);
  const controlLength = reader.uint('the length of the control columns', MAX_CONTROL_BYTES);
  const codedControl = reader.uint('the coded length of the control columns', MAX_PATCH_BYTES);
  const codedDiff = reader.uint('the coded length of diff', MAX_PATCH_BYTES);
  const hasViews = (coding & VIEWS_BIT) !== 0;
  const views = hasViews ? reader.take(reader.uint('the length of the views', MAX_VIEWS_BYTES)) : undefined;
  return {
    targetLength,
    tripleCount,
    controlLength,
    control: { codec: codecs[0], bytes: reader.take(codedControl) },
    diff: { codec: codecs[1], bytes: reader.take(codedDiff) },
    extra: { codec: codecs[2], bytes: reader.take(reader.left) },
    views,
  };
}

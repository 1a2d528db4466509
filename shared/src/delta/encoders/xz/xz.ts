import { crc32 } from 'node:zlib';
import { SitecastError } from '../../../errors.ts';
import { ownPages } from '../../pages.ts';
import { PieceOutput } from '../piece-output.ts';
import { wrongPiece } from '../wrong-piece.ts';
import { BRANCH_FILTERS } from './branch-filters.ts';
import { decodeLzma2 } from './lzma2-decoder.ts';
import { Lzma2Encoder } from './lzma2-encoder.ts';
import { MAX_DICTIONARY_BYTES } from './match-finder.ts';

// A block of a squashfs as mksquashfs makes it with `-comp xz`: a whole .xz file (https://tukaani.org/xz/xz-file-format.txt, 1.2.1) from
// `lzma_stream_buffer_encode`. That is one block with both of its lengths in its header, with CRC-32, coded by LZMA2 and perhaps by a
// filter for jumps before it.

const HEADER = Buffer.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00);
/** Stream flags: the kind of the check (CRC-32), no other options. */
const FLAGS = Buffer.of(0, 1);
const FOOTER = Buffer.from('YZ');
const CHECK_BYTES = 4;
const LZMA2 = 0x21;
/** Block flags: both lengths are given; one filter, or two. */
const BLOCK_FLAGS = 0xc0;
/** Plain bytes of a stored LZMA2 chunk, and length of its header. */
const STORED_CHUNK_BYTES = 65_536;
const STORED_HEADER_BYTES = 3;

/** The highest number of a dictionary: 0 stands for 4 KiB, 16 for 1 MiB, which is squashfs' largest block. */
const MAX_DICTIONARY = 16;
const FILTER = 32;

/** How a piece was made. As one number: the dictionary's, plus 32 times the filter's (0: none). */
interface XzOptions {
  readonly dictionary: number;
  readonly filter: number;
}

/** Kept for the next piece: at most 11 MiB, and 1 MiB for a piece whose jumps are filtered. */
let encoder: Lzma2Encoder | undefined;
let filterBytes: Uint8Array | undefined;

/** Releases the encoder's memory. */
export function releaseXz(): void {
  encoder = undefined;
  filterBytes = undefined;
}

export function takesXz(parameter: number): boolean {
  const { dictionary, filter } = optionsOf(parameter);
  return dictionary <= MAX_DICTIONARY && (filter === 0 || BRANCH_FILTERS.has(filter));
}

/**
 * Compresses at most 1 MiB to one .xz file. `parameter` is one that `takesXz`. Bytes that don't fit `into` are dropped. @returns the
 * length of the whole file
 */
export function encodeXz(plain: Uint8Array, parameter: number, into: Uint8Array): number {
  const options = optionsOf(parameter);
  encoder ??= new Lzma2Encoder();
  const headerLength = blockHeaderLength(plain.length, options);
  const contentAt = HEADER.length + FLAGS.length + CHECK_BYTES + headerLength;
  const content = new PieceOutput(into.subarray(contentAt));
  encoder.encode(filteredCopy(plain, options.filter), bytesOf(options.dictionary), content);
  const blockHeader = withCrc(
    Buffer.concat(
      [
        Buffer.of(headerLength / 4 - 1, BLOCK_FLAGS + (options.filter === 0 ? 0 : 1)),
        varint(content.length),
        varint(plain.length),
        filterFlags(options),
      ],
      headerLength - CHECK_BYTES,
    ),
  );
  const index = Buffer.concat([
    Buffer.of(0, 1),
    varint(headerLength + content.length + CHECK_BYTES),
    varint(plain.length),
  ]);
  const paddedIndex = withCrc(padded(index));
  const footer = Buffer.alloc(6);
  footer.writeUInt32LE(paddedIndex.length / 4 - 1);
  FLAGS.copy(footer, 4);
  new PieceOutput(into).add(Buffer.concat([HEADER, withCrc(FLAGS), blockHeader]));
  content.add(Buffer.alloc(paddedLength(content.length) - content.length));
  content.add(Buffer.concat([uint32(crc32(plain)), paddedIndex, uint32(crc32(footer)), footer, FOOTER]));
  return contentAt + content.length;
}

/**
 * Decompresses such a file. Throws `SITECAST_PATCH_PIECE` where it's malformed, made in another way, or longer than `into`. @returns the
 * length of the content
 */
export function decodeXz(bytes: Uint8Array, into: Uint8Array): number {
  const { plainLength, start, parameter } = readHead(bytes);
  if (plainLength > into.length) wrongPiece('it is larger than stated');
  const plain = into.subarray(0, plainLength);
  try {
    decodeLzma2(bytes.subarray(start), plain);
  } catch (error) {
    if (error instanceof SitecastError && error.code !== 'SITECAST_PATCH_PIECE')
      wrongPiece('its LZMA2 is malformed', error);
    throw error;
  }
  BRANCH_FILTERS.get(optionsOf(parameter).filter)?.(plain, false);
  return plainLength;
}

/** The parameter that this piece was made with. Throws `SITECAST_PATCH_PIECE`. */
export function parameterOfXz(bytes: Uint8Array): number {
  return readHead(bytes).parameter;
}

function readHead(bytes: Uint8Array): { plainLength: number; start: number; parameter: number } {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const blockAt = HEADER.length + FLAGS.length + CHECK_BYTES;
  if (!view.subarray(0, HEADER.length).equals(HEADER)) wrongPiece("it isn't an .xz file");
  const head = view.subarray(blockAt, blockAt + 24);
  const hasFilter = head[1] === BLOCK_FLAGS + 1;
  if (!hasFilter && head[1] !== BLOCK_FLAGS) wrongPiece('its header says too little');
  const compressed = readVarint(head, 2);
  const plain = readVarint(head, compressed.end);
  const parameter = readFilters(head.subarray(plain.end), hasFilter);
  return { plainLength: plain.value, start: blockAt + 4 * ((head[0] ?? 0) + 1), parameter };
}

/** The filters as a parameter that `takesXz`. */
function readFilters(flags: Buffer, hasFilter: boolean): number {
  const filter = hasFilter ? (flags[0] ?? 0) : 0;
  const dictionary = flags[hasFilter ? 4 : 2] ?? MAX_DICTIONARY + 1;
  const options = { dictionary, filter };
  const isKnown = flags.subarray(0, hasFilter ? 5 : 3).equals(filterFlags(options));
  const parameter = dictionary + FILTER * filter;
  if (!isKnown || hasFilter !== filter > 0 || dictionary > MAX_DICTIONARY || !takesXz(parameter))
    wrongPiece("its filters or its dictionary aren't known");
  return parameter;
}

function optionsOf(parameter: number): XzOptions {
  return { dictionary: parameter % FILTER, filter: Math.floor(parameter / FILTER) };
}

function bytesOf(dictionary: number): number {
  return (2 + (dictionary % 2)) * 2 ** (Math.floor(dictionary / 2) + 11);
}

/** A copy with its jumps filtered, valid until the next piece. */
function filteredCopy(plain: Uint8Array, filter: number): Uint8Array {
  const run = BRANCH_FILTERS.get(filter);
  if (run === undefined) return plain;
  if (plain.length > MAX_DICTIONARY_BYTES) wrongPiece('it is longer than a block of a squashfs');
  filterBytes ??= ownPages(MAX_DICTIONARY_BYTES);
  const bytes = filterBytes.subarray(0, plain.length);
  bytes.set(plain);
  run(bytes, true);
  return bytes;
}

function filterFlags({ dictionary, filter }: XzOptions): Buffer {
  const lzma2 = Buffer.of(LZMA2, 1, dictionary);
  return filter === 0 ? lzma2 : Buffer.concat([Buffer.of(filter, 0), lzma2]);
}

/** liblzma reserves room for the longest possible content, which is all stored chunks. */
function blockHeaderLength(plainLength: number, options: XzOptions): number {
  const longest = plainLength + Math.ceil(plainLength / STORED_CHUNK_BYTES) * STORED_HEADER_BYTES + 1;
  const length =
    2 + varint(longest).length + varint(plainLength).length + filterFlags(options).length + CHECK_BYTES;
  return 4 * Math.ceil(length / 4);
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes], paddedLength(bytes.length));
}

function paddedLength(lengthBytes: number): number {
  return 4 * Math.ceil(lengthBytes / 4);
}

function withCrc(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, uint32(crc32(bytes))]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** A number as .xz stores it: LEB128. */
function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  return Buffer.from([...bytes, rest]);
}

/** Reads a number up to 2^28. */
function readVarint(bytes: Uint8Array, start: number): { value: number; end: number } {
  let value = 0;
  for (let at = start, shift = 0; shift < 28; at++, shift += 7) {
    const byte = bytes[at] ?? 0x80;
    value += (byte & 0x7f) << shift;
    if (byte < 0x80) return { value, end: at + 1 };
  }
  return wrongPiece('a number in its header is malformed');
}

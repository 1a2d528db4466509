// A bzip2 encoder: J. Seward's format, as https://github.com/dsnet/compress/blob/master/doc/bzip2-format.pdf describes it. Any bzip2 reads
// its output. Blocks are sorted with a suffix array, in linear time; the Huffman tables are refined longer than `bzip2 -9` does.
import { suffixArray } from '../suffix-array.ts';
import { BitWriter } from './bit-writer.ts';
import { canonicalCodes } from './huffman.ts';
import { chooseTables, GROUP_SYMBOLS, movedToFront } from './tables.ts';

/** Bytes of a block after runs were shortened: as with `bzip2 -9`, which leaves 19 bytes free. */
const MAX_BLOCK_BYTES = 900_000 - 19;
/** After four equal bytes, a count of further ones follows. */
const RUN_BYTES = 4;
const MAX_RUN_BYTES = RUN_BYTES + 251;

/** @returns a whole `.bz2` file of one stream */
export function encodeBzip2(plain: Uint8Array): Buffer {
  const writer = new BitWriter();
  writer.bytes(Buffer.from('BZh9'));
  let checksum = 0;
  for (let from = 0; from < plain.length; ) {
    const { block, to } = shortenRuns(plain, from);
    const blockChecksum = crc(plain.subarray(from, to));
    checksum = ((checksum << 1) | (checksum >>> 31)) ^ blockChecksum;
    writer.bytes(Buffer.from('314159265359', 'hex'));
    writer.bits32(blockChecksum);
    writeBlock(writer, block);
    from = to;
  }
  writer.bytes(Buffer.from('177245385090', 'hex'));
  writer.bits32(checksum);
  return writer.finish();
}

/** The next block's bytes, with runs shortened, and where it ends in the plain bytes. */
function shortenRuns(plain: Uint8Array, from: number): { block: Uint8Array; to: number } {
  const block = new Uint8Array(MAX_BLOCK_BYTES);
  let used = 0;
  let at = from;
  while (at < plain.length) {
    const byte = plain[at] ?? 0;
    let run = 1;
    while (run < MAX_RUN_BYTES && plain[at + run] === byte) run++;
    if (used + Math.min(run, RUN_BYTES + 1) > MAX_BLOCK_BYTES) break;
    for (let copy = Math.min(run, RUN_BYTES); copy > 0; copy--) block[used++] = byte;
    if (run >= RUN_BYTES) block[used++] = run - RUN_BYTES;
    at += run;
  }
  return { block: block.subarray(0, used), to: at };
}

function writeBlock(writer: BitWriter, block: Uint8Array): void {
  const { last, origin } = sortRotations(block);
  writer.bits(0, 1);
  writer.bits(origin, 24);
  const { symbols, alphabet } = writeSymbolMap(writer, last);
  const { lengths, selectors } = chooseTables(symbols, alphabet);
  writer.bits(lengths.length, 3);
  writer.bits(selectors.length, 15);
  for (const place of movedToFront(selectors, lengths.length)) {
    for (let ones = 0; ones < place; ones++) writer.bits(1, 1);
    writer.bits(0, 1);
  }
  for (const table of lengths) writeLengths(writer, table);
  const codes = lengths.map(canonicalCodes);
  for (let at = 0; at < symbols.length; at++) {
    const table = selectors[Math.floor(at / GROUP_SYMBOLS)] ?? 0;
    const symbol = symbols[at] ?? 0;
    writer.bits(codes[table]?.[symbol] ?? 0, lengths[table]?.[symbol] ?? 0);
  }
}

/** The Burrows-Wheeler transform: the last byte of each rotation in sorted order, and which of them is the block itself. */
function sortRotations(block: Uint8Array): { last: Uint8Array; origin: number } {
  const { length } = block;
  // The first half of each suffix that begins in the first copy is a rotation.
  const twice = new Uint8Array(length * 2);
  twice.set(block);
  twice.set(block, length);
  const last = new Uint8Array(length);
  let origin = 0;
  let used = 0;
  for (const suffix of suffixArray(twice)) {
    if (suffix >= length) continue;
    if (suffix === 0) origin = used;
    last[used++] = twice[suffix + length - 1] ?? 0;
  }
  return { last, origin };
}

/** Writes which bytes occur; then moves bytes to the front, and codes runs of zeros with two symbols. */
function writeSymbolMap(writer: BitWriter, last: Uint8Array): { symbols: Uint16Array; alphabet: number } {
  const occurs = new Uint8Array(256);
  for (const byte of last) occurs[byte] = 1;
  const halves = Array.from({ length: 16 }, (_, row) => occurs.subarray(row * 16, row * 16 + 16));
  for (const row of halves) writer.bits(row.includes(1) ? 1 : 0, 1);
  for (const row of halves) {
    if (row.includes(1)) for (const bit of row) writer.bits(bit, 1);
  }
  const values = Array.from(occurs.keys()).filter(byte => occurs[byte] === 1);
  return { symbols: runsAndPlaces(last, values), alphabet: values.length + 2 };
}

function runsAndPlaces(last: Uint8Array, values: readonly number[]): Uint16Array {
  const order = Uint8Array.from(values);
  // A run of n zeros takes at most n symbols.
  const symbols = new Uint16Array(last.length + 1);
  let used = 0;
  let zeros = 0;
  const endRun = (): void => {
    for (; zeros > 0; zeros = (zeros - 1) >> 1) symbols[used++] = (zeros - 1) & 1;
  };
  for (const byte of last) {
    if (order[0] === byte) {
      zeros++;
      continue;
    }
    endRun();
    let place = 1;
    while (order[place] !== byte) place++;
    order.copyWithin(1, 0, place);
    order[0] = byte;
    symbols[used++] = place + 1;
  }
  endRun();
  symbols[used++] = values.length + 1;
  return symbols.subarray(0, used);
}

function writeLengths(writer: BitWriter, lengths: Uint8Array): void {
  let current = lengths[0] ?? 0;
  writer.bits(current, 5);
  for (const length of lengths) {
    for (; current < length; current++) writer.bits(0b10, 2);
    for (; current > length; current--) writer.bits(0b11, 2);
    writer.bits(0, 1);
  }
}

const crcTable = Int32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte << 24;
  for (let bit = 0; bit < 8; bit++) remainder = (remainder << 1) ^ (remainder < 0 ? 0x04c11db7 : 0);
  return remainder;
});

function crc(bytes: Uint8Array): number {
  let remainder = -1;
  for (const byte of bytes) remainder = (remainder << 8) ^ (crcTable[(remainder >>> 24) ^ byte] ?? 0);
  return ~remainder;
}

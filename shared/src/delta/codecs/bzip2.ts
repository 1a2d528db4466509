import { badStream } from './stream-codec.ts';

// bzip2, for a stream whose plain length is known. The format is that of its source code (Julian Seward's bzip2 1.0.8, decompress.c), with
// two differences: the first three bytes (`BZh`) are left out, and the end may be. Checksums of blocks aren't compared, as the caller
// compares SHA-256 of the result. The randomized blocks of bzip2 before 0.9.5 are refused.

const BLOCK_MAGIC_HIGH = 0x314159;
const BLOCK_MAGIC_LOW = 0x265359;
const BYTES_A_LEVEL = 100_000;
const MAX_GROUPS = 6;
const MAX_SELECTORS = 18_002;
const GROUP_SYMBOLS = 50;
const MAX_CODE_BITS = 20;
const MAX_SYMBOLS = 258;
/** Codes of at most this many bits are found with one look-up in a table. */
const TABLE_BITS = 10;
const TABLE_SIZE = 2 ** TABLE_BITS;
/** An entry of the table: the symbol, times 32, plus the length of its code in bits. 0 for a longer code. */
const LENGTH_BITS = 5;
/** After this many equal bytes, a count of further ones follows. */
const RUN_BYTES = 4;

/** The longest block, in plain bytes. Decoding needs 4 bytes of memory for each. */
export const MAX_BLOCK_BYTES = 9 * BYTES_A_LEVEL;

/**
 * Decodes bzip2. Fills `plain`; time grows with the lengths of `coded` and `plain`, memory is at most 3.6 MB.
 * @param blocks MAX_BLOCK_BYTES numbers
 * @returns how many bytes of `coded` were read
 * @throws SITECAST_PATCH_STREAM
 */
export function decodeBzip2(coded: Uint8Array, plain: Uint8Array, blocks?: Uint32Array): number {
  return new Bzip2Decoder(coded, plain, blocks).decode();
}

function bad(what: string): Error {
  return badStream('bzip2', what);
}

class Bzip2Decoder {
  readonly #coded: Uint8Array;
  readonly #plain: Uint8Array;
  readonly #block: Uint32Array;
  readonly #blockBytes: number;
  readonly #selectors = new Uint8Array(MAX_SELECTORS);
  readonly #codes = Array.from({ length: MAX_GROUPS }, () => new CodeTable());
  /** The bytes that occur in the block, moved to the front as they are used. */
  readonly #front = new Uint8Array(256);
  /** How often each byte occurs. */
  readonly #counts = new Uint32Array(256);
  #bits = 0;
  #bitCount = 0;
  #at = 1;
  #to = 0;

  constructor(coded: Uint8Array, plain: Uint8Array, blocks: Uint32Array | undefined) {
    const level = (coded[0] ?? 0) - 0x30;
    if (level < 1 || level > 9) throw bad('it does not begin as one');
    this.#coded = coded;
    this.#plain = plain;
    // A run of 4 takes 5 bytes of a block: no block of a right stream is longer than this.
    this.#blockBytes = Math.min(level * BYTES_A_LEVEL, Math.ceil(plain.length * 1.25) + 1);
    this.#block = blocks ?? new Uint32Array(this.#blockBytes);
  }

  decode(): number {
    while (this.#to < this.#plain.length) {
      if (this.#read(24) !== BLOCK_MAGIC_HIGH || this.#read(24) !== BLOCK_MAGIC_LOW)
        throw bad('it ends early');
      this.#read(16);
      this.#read(16);
      if (this.#read(1) === 1) throw bad('a block is randomized');
      const first = this.#read(24);
      const symbolCount = this.#readUsedBytes() + 2;
      const groupCount = this.#readSelectors();
      for (const code of this.#codes.slice(0, groupCount))
        code.build(this.#readLengths(symbolCount), symbolCount);
      const length = this.#readBlock(symbolCount - 1);
      if (first >= length) throw bad('a block begins outside of itself');
      this.#order(length);
      this.#write(first, length);
    }
    return this.#at - Math.floor(this.#bitCount / 8);
  }

  /** The next bits, at most 24. */
  #read(count: number): number {
    while (this.#bitCount < count) {
      const byte = this.#coded[this.#at];
      if (byte === undefined) throw bad('it is cut off');
      this.#bits = (this.#bits << 8) | byte;
      this.#at += 1;
      this.#bitCount += 8;
    }
    this.#bitCount -= count;
    return (this.#bits >>> this.#bitCount) & (2 ** count - 1);
  }

  /** Which bytes occur: a bit for each 16 of them, then 16 bits for each of those. @returns how many */
  #readUsedBytes(): number {
    const parts = this.#read(16);
    let used = 0;
    for (let part = 0; part < 16; part += 1) {
      if ((parts & (0x8000 >> part)) === 0) continue;
      const bytes = this.#read(16);
      for (let byte = 0; byte < 16; byte += 1)
        if ((bytes & (0x8000 >> byte)) !== 0) {
          this.#front[used] = part * 16 + byte;
          used += 1;
        }
    }
    if (used === 0) throw bad('a block has no bytes');
    return used;
  }

  /** Which code each group of 50 symbols uses. @returns how many codes there are */
  #readSelectors(): number {
    const groupCount = this.#read(3);
    const count = this.#read(15);
    if (groupCount < 2 || groupCount > MAX_GROUPS || count === 0) throw bad('its codes are not possible');
    const order = [0, 1, 2, 3, 4, 5];
    for (let at = 0; at < count; at += 1) {
      let place = 0;
      while (this.#read(1) === 1) {
        place += 1;
        if (place >= groupCount) throw bad('a code is chosen that is not there');
      }
      const [group = 0] = order.splice(place, 1);
      order.unshift(group);
      // Some encoders write more selectors than are needed (bzip2 1.0.8's release notes): those are dropped.
      if (at < MAX_SELECTORS) this.#selectors[at] = group;
    }
    this.#selectors.fill(MAX_GROUPS, Math.min(count, MAX_SELECTORS));
    return groupCount;
  }

  /** Lengths of one code, each coded as a difference from the one before. */
  #readLengths(symbolCount: number): Uint8Array {
    const lengths = new Uint8Array(symbolCount);
    let length = this.#read(5);
    for (let symbol = 0; symbol < symbolCount; symbol += 1) {
      for (;;) {
        if (length < 1 || length > MAX_CODE_BITS) throw bad('the length of a code is not possible');
        if (this.#read(1) === 0) break;
        length += this.#read(1) === 0 ? 1 : -1;
      }
      lengths[symbol] = length;
    }
    return lengths;
  }

  /** Reads the symbols of a block into `#block`, and counts its bytes. @returns its length */
  #readBlock(endSymbol: number): number {
    const counts = this.#counts.fill(0);
    let length = 0;
    let run = 0;
    let runFactor = 1;
    for (let group = 0; ; group += 1) {
      const code = this.#codes[this.#selectors[group] ?? MAX_GROUPS];
      if (code === undefined) throw bad('a block does not end');
      for (let count = 0; count < GROUP_SYMBOLS; count += 1) {
        const symbol = this.#symbol(code);
        if (symbol < 2) {
          // The length of a run of the foremost byte, in bijective base 2: digits 1 and 2, lowest first.
          run += runFactor << symbol;
          runFactor *= 2;
          if (run > this.#blockBytes) throw bad('a block is too long');
          continue;
        }
        if (run > 0) {
          length = this.#repeat(length, run);
          run = 0;
          runFactor = 1;
        }
        if (symbol === endSymbol) return length;
        if (length >= this.#blockBytes) throw bad('a block is too long');
        const byte = this.#toFront(symbol - 1);
        this.#block[length] = byte;
        counts[byte] = (counts[byte] ?? 0) + 1;
        length += 1;
      }
    }
  }

  /** Moves a byte to the front, and returns it. */
  #toFront(place: number): number {
    const front = this.#front;
    const byte = front[place] ?? 0;
    if (place < 16) for (let to = place; to > 0; to -= 1) front[to] = front[to - 1] ?? 0;
    else front.copyWithin(1, 0, place);
    front[0] = byte;
    return byte;
  }

  /** Adds a run of the foremost byte. @returns the block's length with it */
  #repeat(length: number, run: number): number {
    if (length + run > this.#blockBytes) throw bad('a block is too long');
    const byte = this.#front[0] ?? 0;
    this.#block.fill(byte, length, length + run);
    this.#counts[byte] = (this.#counts[byte] ?? 0) + run;
    return length + run;
  }

  #symbol(code: CodeTable): number {
    // Enough bits for the longest code; zeros after the end of the stream.
    while (this.#bitCount < MAX_CODE_BITS) {
      this.#bits = (this.#bits << 8) | (this.#coded[this.#at] ?? 0);
      this.#at += 1;
      this.#bitCount += 8;
    }
    const entry = code.table[(this.#bits >>> (this.#bitCount - TABLE_BITS)) & (TABLE_SIZE - 1)] ?? 0;
    if (entry === 0) return this.#longSymbol(code);
    this.#take(entry & (2 ** LENGTH_BITS - 1));
    return entry >> LENGTH_BITS;
  }

  #longSymbol(code: CodeTable): number {
    const bits = (this.#bits >>> (this.#bitCount - MAX_CODE_BITS)) & (2 ** MAX_CODE_BITS - 1);
    const found = code.find(bits);
    if (found === 0) throw bad('a code is not there');
    this.#take(found & (2 ** LENGTH_BITS - 1));
    return found >> LENGTH_BITS;
  }

  #take(count: number): void {
    this.#bitCount -= count;
    if (this.#at - (this.#bitCount >> 3) > this.#coded.length) throw bad('it is cut off');
  }

  /**
   * The inverse of the Burrows-Wheeler transform: stores with each byte of the block (in the bits above it) the place of the byte that
   * follows it.
   */
  #order(length: number): void {
    const block = this.#block;
    const starts = new Uint32Array(256);
    let sum = 0;
    for (let byte = 0; byte < 256; byte += 1) {
      starts[byte] = sum;
      sum += this.#counts[byte] ?? 0;
    }
    for (let at = 0; at < length; at += 1) {
      const byte = (block[at] ?? 0) & 0xff;
      const place = starts[byte] ?? 0;
      starts[byte] = place + 1;
      block[place] = (block[place] ?? 0) | (at << 8);
    }
  }

  /** Follows the places, and expands runs: 4 equal bytes and the count of further ones. */
  #write(first: number, length: number): void {
    const block = this.#block;
    const plain = this.#plain;
    let to = this.#to;
    let entry = block[first] ?? 0;
    let before = -1;
    let equal = 0;
    for (let left = length; left > 0; left -= 1) {
      entry = block[entry >>> 8] ?? 0;
      const byte = entry & 0xff;
      if (equal === RUN_BYTES) {
        if (to + byte > plain.length) throw bad('it decodes to more bytes');
        plain.fill(before, to, to + byte);
        to += byte;
        equal = 0;
        before = -1;
        continue;
      }
      equal = byte === before ? equal + 1 : 1;
      before = byte;
      if (to >= plain.length) throw bad('it decodes to more bytes');
      plain[to] = byte;
      to += 1;
    }
    this.#to = to;
  }
}

/** One Huffman code: a table for the short codes, and the first code of each length for the others. */
class CodeTable {
  readonly table = new Uint16Array(TABLE_SIZE);
  /** The symbols in the order of their codes. */
  readonly #symbols = new Uint16Array(MAX_SYMBOLS);
  /** For each length: the first code that is longer, its bits shifted up to MAX_CODE_BITS. */
  readonly #limits = new Uint32Array(MAX_CODE_BITS + 2);
  /** For each length: the difference between a code's bits and its place in `#symbols`. */
  readonly #offsets = new Int32Array(MAX_CODE_BITS + 2);

  build(lengths: Uint8Array, symbolCount: number): void {
    this.table.fill(0);
    let code = 0;
    let place = 0;
    for (let length = 1; length <= MAX_CODE_BITS; length += 1) {
      this.#offsets[length] = place - code;
      for (let symbol = 0; symbol < symbolCount; symbol += 1) {
        if (lengths[symbol] !== length) continue;
        if (code >= 2 ** length) throw bad('a code has too many symbols');
        this.#symbols[place] = symbol;
        if (length <= TABLE_BITS) {
          const from = code << (TABLE_BITS - length);
          this.table.fill((symbol << LENGTH_BITS) | length, from, from + 2 ** (TABLE_BITS - length));
        }
        place += 1;
        code += 1;
      }
      this.#limits[length] = code * 2 ** (MAX_CODE_BITS - length);
      code *= 2;
    }
  }

  /** The symbol that these MAX_CODE_BITS bits begin with, as in the table; 0 where there is none. */
  find(bits: number): number {
    for (let length = TABLE_BITS + 1; length <= MAX_CODE_BITS; length += 1)
      if (bits < (this.#limits[length] ?? 0)) {
        const place = (bits >>> (MAX_CODE_BITS - length)) + (this.#offsets[length] ?? 0);
        return ((this.#symbols[place] ?? 0) << LENGTH_BITS) | length;
      }
    return 0;
  }
}

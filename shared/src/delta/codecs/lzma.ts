import { badStream } from './stream-codec.ts';

// LZMA, after Igor Pavlov's "LZMA specification" (public domain), for a stream whose plain length is known. What was decoded is the
// dictionary: besides it there are only the probabilities, 57 KiB at the most. All of them lie in one array, each kind at an offset.
// Numbers of 32 bits are kept as signed ones: V8 stores those in place, and would allocate the unsigned ones above 2^31.

/** How many bytes at its end a stream may be spared: the decoder reads zeros there. */
const MAX_IMPLICIT_BYTES = 8;
/** The range coder begins with 5 bytes, of which the first is always 0 and isn't there. */
const START_BYTES = 4;
const MAX_LC_LP = 4;
const MAX_PROPERTIES = 9 * 5 * 5;

const MODEL_BITS = 11;
const MODEL_TOTAL = 2 ** MODEL_BITS;
const MOVE_BITS = 5;
/** The range is filled up where these bits are 0. */
const TOP_BITS = 0xff000000 | 0;
/** Turns the order of signed numbers into that of unsigned ones. */
const SIGN = 0x80000000 | 0;

const STATES = 12;
const POS_STATES = 16;
const LENGTH_STATES = 4;
const MIN_MATCH = 2;
const END_POS_MODEL = 14;
const ALIGN_BITS = 4;

// Offsets of the probabilities.
const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POS_STATES;
const IS_REP_G0 = IS_REP + STATES;
const IS_REP_G1 = IS_REP_G0 + STATES;
const IS_REP_G2 = IS_REP_G1 + STATES;
const IS_REP0_LONG = IS_REP_G2 + STATES;
const POS_SLOT = IS_REP0_LONG + STATES * POS_STATES;
const SPEC_POS = POS_SLOT + LENGTH_STATES * 64;
const ALIGN = SPEC_POS + 128;
// A length coder: two choices, 16 low trees of 3 bits, 16 middle ones of 3, a high one of 8.
const LENGTH_LOW = 2;
const LENGTH_MIDDLE = LENGTH_LOW + POS_STATES * 8;
const LENGTH_HIGH = LENGTH_MIDDLE + POS_STATES * 8;
const LENGTH_SIZE = LENGTH_HIGH + 256;
const MATCH_LENGTH = ALIGN + 16;
const REP_LENGTH = MATCH_LENGTH + LENGTH_SIZE;
const LITERAL = REP_LENGTH + LENGTH_SIZE;
const LITERAL_SIZE = 0x300;

/**
 * Decodes raw LZMA: one byte of properties, then the stream without its first byte. Fills `plain`; time and memory grow with its length alone.
 * @returns how many bytes of `coded` were looked at
 * @throws SITECAST_PATCH_STREAM
 */
export function decodeLzma(coded: Uint8Array, plain: Uint8Array): number {
  return new LzmaDecoder(coded, plain).decode();
}

class LzmaDecoder {
  readonly #coded: Uint8Array;
  readonly #plain: Uint8Array;
  readonly #probs: Uint16Array;
  readonly #lc: number;
  readonly #lpMask: number;
  readonly #pbMask: number;
  #range = -1;
  #code = 0;
  /** Where the next coded byte is. */
  #at = 1;
  /** Where the next plain byte goes. */
  #to = 0;
  #state = 0;
  // Distances of the last matches, less one.
  #rep0 = 0;
  #rep1 = 0;
  #rep2 = 0;
  #rep3 = 0;

  constructor(coded: Uint8Array, plain: Uint8Array) {
    const properties = coded[0] ?? MAX_PROPERTIES;
    const lc = properties % 9;
    const lp = Math.floor(properties / 9) % 5;
    if (properties >= MAX_PROPERTIES || lc + lp > MAX_LC_LP)
      throw badStream('lzma', `its properties ${properties} are not allowed`);
    this.#coded = coded;
    this.#plain = plain;
    this.#lc = lc;
    this.#lpMask = 2 ** lp - 1;
    this.#pbMask = 2 ** Math.floor(properties / 45) - 1;
    this.#probs = new Uint16Array(LITERAL + LITERAL_SIZE * 2 ** (lc + lp)).fill(MODEL_TOTAL / 2);
    for (let count = 0; count < START_BYTES; count += 1) this.#code = (this.#code << 8) | this.#next();
  }

  decode(): number {
    const length = this.#plain.length;
    while (this.#to < length) {
      const posState = this.#to & this.#pbMask;
      if (this.#bit(IS_MATCH + this.#state * POS_STATES + posState) === 0) this.#literal();
      else this.#copy(this.#matchLength(posState));
    }
    return this.#at;
  }

  /** The next coded byte; a few zeros follow the last one. */
  #next(): number {
    const byte = this.#coded[this.#at];
    this.#at += 1;
    if (byte !== undefined) return byte;
    if (this.#at > this.#coded.length + MAX_IMPLICIT_BYTES) throw badStream('lzma', 'it is cut off');
    return 0;
  }

  #bit(index: number): number {
    const prob = this.#probs[index] ?? 0;
    const bound = Math.imul(this.#range >>> MODEL_BITS, prob);
    let bit = 0;
    if ((this.#code ^ SIGN) < (bound ^ SIGN)) {
      this.#range = bound;
      this.#probs[index] = prob + ((MODEL_TOTAL - prob) >> MOVE_BITS);
    } else {
      this.#range = (this.#range - bound) | 0;
      this.#code = (this.#code - bound) | 0;
      this.#probs[index] = prob - (prob >> MOVE_BITS);
      bit = 1;
    }
    if ((this.#range & TOP_BITS) === 0) {
      this.#range <<= 8;
      this.#code = (this.#code << 8) | this.#next();
    }
    return bit;
  }

  /** A literal; after a match its bits depend on those of the byte at the last distance, as long as they agree. */
  #literal(): void {
    const plain = this.#plain;
    const to = this.#to;
    const before = to > 0 ? (plain[to - 1] ?? 0) : 0;
    const context = ((to & this.#lpMask) << this.#lc) + (before >> (8 - this.#lc));
    const probs = LITERAL + LITERAL_SIZE * context;
    let symbol = 1;
    if (this.#state >= 7) {
      let match = plain[to - this.#rep0 - 1] ?? 0;
      while (symbol < 0x100) {
        match <<= 1;
        const matchBit = match & 0x100;
        const bit = this.#bit(probs + 0x100 + matchBit + symbol);
        symbol = (symbol << 1) | bit;
        if (matchBit >> 8 !== bit) break;
      }
    }
    this.#plain[to] = this.#plainBits(probs, symbol);
    this.#to = to + 1;
    this.#state = this.#state < 4 ? 0 : this.#state < 10 ? this.#state - 3 : this.#state - 6;
  }

  /** The rest of a literal. As most of the time is spent here, the decoder's numbers are kept in variables meanwhile. */
  #plainBits(base: number, first: number): number {
    const probs = this.#probs;
    const coded = this.#coded;
    let range = this.#range;
    let code = this.#code;
    let symbol = first;
    while (symbol < 0x100) {
      const prob = probs[base + symbol] ?? 0;
      const bound = Math.imul(range >>> MODEL_BITS, prob);
      if ((code ^ SIGN) < (bound ^ SIGN)) {
        range = bound;
        probs[base + symbol] = prob + ((MODEL_TOTAL - prob) >> MOVE_BITS);
        symbol <<= 1;
      } else {
        range = (range - bound) | 0;
        code = (code - bound) | 0;
        probs[base + symbol] = prob - (prob >> MOVE_BITS);
        symbol = (symbol << 1) | 1;
      }
      if ((range & TOP_BITS) === 0) {
        range <<= 8;
        code = (code << 8) | (this.#at < coded.length ? (coded[this.#at++] ?? 0) : this.#next());
      }
    }
    this.#range = range;
    this.#code = code;
    return symbol;
  }

  /** A match: sets the distance. @returns its length */
  #matchLength(posState: number): number {
    const state = this.#state;
    if (this.#bit(IS_REP + state) === 0) {
      this.#rep3 = this.#rep2;
      this.#rep2 = this.#rep1;
      this.#rep1 = this.#rep0;
      const length = this.#length(MATCH_LENGTH, posState);
      this.#state = state < 7 ? 7 : 10;
      this.#rep0 = this.#distance(length);
      return length;
    }
    if (this.#bit(IS_REP_G0 + state) === 0) {
      if (this.#bit(IS_REP0_LONG + state * POS_STATES + posState) === 0) {
        this.#state = state < 7 ? 9 : 11;
        return 1;
      }
    } else this.#repeated();
    this.#state = state < 7 ? 8 : 11;
    return this.#length(REP_LENGTH, posState);
  }

  /** Takes one of the older distances. */
  #repeated(): void {
    let distance = this.#rep1;
    if (this.#bit(IS_REP_G1 + this.#state) === 1) {
      if (this.#bit(IS_REP_G2 + this.#state) === 0) distance = this.#rep2;
      else {
        distance = this.#rep3;
        this.#rep3 = this.#rep2;
      }
      this.#rep2 = this.#rep1;
    }
    this.#rep1 = this.#rep0;
    this.#rep0 = distance;
  }

  #length(coder: number, posState: number): number {
    if (this.#bit(coder) === 0) return MIN_MATCH + this.#tree(coder + LENGTH_LOW + posState * 8, 3);
    if (this.#bit(coder + 1) === 0)
      return MIN_MATCH + 8 + this.#tree(coder + LENGTH_MIDDLE + posState * 8, 3);
    return MIN_MATCH + 16 + this.#tree(coder + LENGTH_HIGH, 8);
  }

  /** The distance of a match of this length, less one. The end marker's is over all others, as an unsigned number. */
  #distance(length: number): number {
    const lengthState = Math.min(length - MIN_MATCH, LENGTH_STATES - 1);
    const slot = this.#tree(POS_SLOT + lengthState * 64, 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    const high = (2 | (slot & 1)) << bits;
    if (slot < END_POS_MODEL) return high + this.#reverseTree(SPEC_POS + high - slot, bits);
    return high + (this.#directBits(bits - ALIGN_BITS) << ALIGN_BITS) + this.#reverseTree(ALIGN, ALIGN_BITS);
  }

  #tree(base: number, bits: number): number {
    let symbol = 1;
    for (let count = 0; count < bits; count += 1) symbol = (symbol << 1) | this.#bit(base + symbol);
    return symbol - 2 ** bits;
  }

  #reverseTree(base: number, bits: number): number {
    let node = 1;
    let symbol = 0;
    for (let place = 0; place < bits; place += 1) {
      const bit = this.#bit(base + node);
      node = (node << 1) | bit;
      symbol |= bit << place;
    }
    return symbol;
  }

  #directBits(count: number): number {
    let value = 0;
    for (let left = count; left > 0; left -= 1) {
      this.#range >>>= 1;
      const isOne = (this.#code ^ SIGN) >= (this.#range ^ SIGN);
      if (isOne) this.#code = (this.#code - this.#range) | 0;
      value = (value << 1) | (isOne ? 1 : 0);
      if ((this.#range & TOP_BITS) === 0) {
        this.#range <<= 8;
        this.#code = (this.#code << 8) | this.#next();
      }
    }
    return value;
  }

  /** Repeats the bytes at the distance; a copy may read what it has just written. */
  #copy(length: number): void {
    const plain = this.#plain;
    const distance = this.#rep0 + 1;
    let to = this.#to;
    if (distance <= 0 || distance > to)
      throw badStream('lzma', 'it reads before its beginning, or ends early');
    const end = to + length;
    if (end > plain.length) throw badStream('lzma', 'it decodes to more bytes');
    if (distance >= length && length > 32) plain.copyWithin(to, to - distance, end - distance);
    else for (; to < end; to += 1) plain[to] = plain[to - distance] ?? 0;
    this.#to = end;
  }
}

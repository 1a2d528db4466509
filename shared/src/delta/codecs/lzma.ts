import {
  ALIGN,
  ALIGN_BITS,
  afterLiteral,
  afterMatch,
  afterRep,
  afterShortRep,
  END_POS_MODEL,
  FIRST_MATCH_STATE,
  IS_MATCH,
  IS_REP,
  IS_REP0_LONG,
  IS_REP_G0,
  IS_REP_G1,
  IS_REP_G2,
  LENGTH_HIGH,
  LENGTH_LOW,
  LENGTH_MIDDLE,
  LITERAL,
  LITERAL_SIZE,
  lengthStateOf,
  MATCH_LENGTH,
  MIN_MATCH,
  MODEL_BITS,
  MODEL_TOTAL,
  MOVE_BITS,
  POS_SLOT,
  POS_STATES,
  probabilityCount,
  REP_LENGTH,
  SPEC_POS,
} from './lzma-model.ts';
import { badStream } from './stream-codec.ts';

// LZMA, after Igor Pavlov's "LZMA specification" (public domain), for a stream whose plain length is known. The decoded bytes themselves
// are the dictionary: further memory is needed only for the probabilities, 57 KiB at most.
// Numbers of 32 bits are kept as signed ones: V8 stores those in place, and would allocate the unsigned ones above 2^31.

/** An encoder may leave out this many bytes at the end of a stream: the decoder reads zeros there. */
const MAX_IMPLICIT_BYTES = 8;
/** The range coder begins with 5 bytes. The first is always 0 and is left out. */
const START_BYTES = 4;
const MAX_LC_LP = 4;
const MAX_PROPERTIES = 9 * 5 * 5;

/** The range is filled up where these bits are 0. */
const TOP_BITS = 0xff000000 | 0;
/** Turns the order of signed numbers into that of unsigned ones. */
const SIGN = 0x80000000 | 0;

/**
 * Decodes raw LZMA: one byte of properties, then the stream without its first byte. Fills `plain`; time and memory grow with its length alone.
 * @returns how many bytes of `coded` were looked at
 * @throws SITECAST_PATCH_STREAM
 */
export function decodeLzma(coded: Uint8Array, plain: Uint8Array): number {
  const decoder = new LzmaDecoder(plain);
  decoder.setProperties(coded[0] ?? MAX_PROPERTIES);
  return 1 + decoder.decode(coded.subarray(1), plain.length);
}

/** Decodes streams one after the other into the same bytes, which are the dictionary. */
export class LzmaDecoder {
  #coded: Uint8Array = new Uint8Array();
  readonly #plain: Uint8Array;
  #probs: Uint16Array = new Uint16Array();
  #lc = 0;
  #lpMask = 0;
  #pbMask = 0;
  #range = -1;
  #code = 0;
  /** Where the next coded byte is. */
  #at = 0;
  /** Where the next plain byte goes. */
  #to = 0;
  /** Where the stream's plain bytes end. */
  #end = 0;
  #state = 0;
  // Distances of the last matches, less one.
  #rep0 = 0;
  #rep1 = 0;
  #rep2 = 0;
  #rep3 = 0;

  constructor(plain: Uint8Array) {
    this.#plain = plain;
  }

  /** How many bytes were made. */
  get length(): number {
    return this.#to;
  }

  /** Takes properties in the form of LZMA's headers, and resets all probabilities. @throws SITECAST_PATCH_STREAM */
  setProperties(properties: number): void {
    const lc = properties % 9;
    const lp = Math.floor(properties / 9) % 5;
    if (properties >= MAX_PROPERTIES || lc + lp > MAX_LC_LP)
      throw badStream('lzma', `its properties ${properties} are not allowed`);
    this.#lc = lc;
    this.#lpMask = 2 ** lp - 1;
    this.#pbMask = 2 ** Math.floor(properties / 45) - 1;
    const count = probabilityCount(lc, lp);
    // The properties can change every few bytes in LZMA2.
    if (this.#probs.length < count) this.#probs = new Uint16Array(count);
    this.reset();
  }

  /** Resets everything but the properties. @throws SITECAST_PATCH_STREAM where there are none */
  reset(): void {
    if (this.#probs.length === 0) throw badStream('lzma', 'it has no properties');
    this.#probs.fill(MODEL_TOTAL / 2);
    this.#state = 0;
    this.#rep0 = 0;
    this.#rep1 = 0;
    this.#rep2 = 0;
    this.#rep3 = 0;
  }

  /** Adds bytes that are stored as they are. @throws SITECAST_PATCH_STREAM */
  store(bytes: Uint8Array): void {
    if (bytes.length > this.#plain.length - this.#to) throw badStream('lzma', 'it decodes to more bytes');
    this.#plain.set(bytes, this.#to);
    this.#to += bytes.length;
  }

  /**
   * Decodes a stream, given without its first byte (always 0), to this many bytes.
   * @returns how many of its bytes were read
   * @throws SITECAST_PATCH_STREAM
   */
  decode(coded: Uint8Array, lengthBytes: number): number {
    if (this.#probs.length === 0) throw badStream('lzma', 'it has no properties');
    if (lengthBytes > this.#plain.length - this.#to) throw badStream('lzma', 'it decodes to more bytes');
    this.#coded = coded;
    this.#at = 0;
    this.#range = -1;
    this.#code = 0;
    for (let count = 0; count < START_BYTES; count += 1) this.#code = (this.#code << 8) | this.#next();
    const end = this.#to + lengthBytes;
    this.#end = end;
    while (this.#to < end) {
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
    if (this.#state >= FIRST_MATCH_STATE) {
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
    this.#state = afterLiteral(this.#state);
  }

  /** The bits of a literal that don't depend on a match. Most of the time is spent here, so fields are kept in local variables meanwhile. */
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
      this.#state = afterMatch(state);
      this.#rep0 = this.#distance(length);
      return length;
    }
    if (this.#bit(IS_REP_G0 + state) === 0) {
      if (this.#bit(IS_REP0_LONG + state * POS_STATES + posState) === 0) {
        this.#state = afterShortRep(state);
        return 1;
      }
    } else this.#repeated();
    this.#state = afterRep(state);
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

  /** The distance of a match of this length, less one. That of the end marker is, as an unsigned number, higher than all others. */
  #distance(length: number): number {
    const slot = this.#tree(POS_SLOT + lengthStateOf(length) * 64, 6);
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

  /** Repeats the bytes at the distance. Source and target may overlap. */
  #copy(length: number): void {
    const plain = this.#plain;
    const distance = this.#rep0 + 1;
    let to = this.#to;
    if (distance <= 0 || distance > to)
      throw badStream('lzma', 'it reads before its beginning, or ends early');
    const end = to + length;
    if (end > this.#end) throw badStream('lzma', 'it decodes to more bytes');
    if (distance >= length && length > 32) plain.copyWithin(to, to - distance, end - distance);
    else for (; to < end; to += 1) plain[to] = plain[to - distance] ?? 0;
    this.#to = end;
  }
}

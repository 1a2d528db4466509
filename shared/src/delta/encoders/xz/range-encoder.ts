// Ported from XZ Utils 5.4.1, liblzma/rangecoder/range_encoder.h, by Igor Pavlov and Lasse Collin, which they put into the public domain.

import { MODEL_BITS, MODEL_TOTAL, MOVE_BITS } from '../../codecs/lzma-model.ts';
import { probAt } from './typed-arrays.ts';

const TOP = 2 ** 24;
const FULL = 2 ** 32 - 1;
/** The longest output: that of one LZMA2 chunk. */
export const MAX_CHUNK_BYTES = 2 ** 16;

/** Codes bits by probabilities, and adapts these. Like liblzma's, it normalizes its range before a bit, not after it. */
export class RangeEncoder {
  readonly probs: Uint16Array;
  private readonly out = new Uint8Array(MAX_CHUNK_BYTES);
  private length = 0;
  /** At most 2^33: with a carry. */
  private low = 0;
  private range = FULL;
  private cache = 0;
  private cacheSize = 1;

  constructor(probs: Uint16Array) {
    this.probs = probs;
  }

  /** Begins a new output; the probabilities stay. */
  begin(): void {
    this.length = 0;
    this.low = 0;
    this.range = FULL;
    this.cache = 0;
    this.cacheSize = 1;
  }

  /** Length of the output if it ended now. */
  get pendingLength(): number {
    return this.length + this.cacheSize + 4;
  }

  /** Ends the output. @returns all of it, valid until `begin` */
  finish(): Uint8Array {
    this.normalize();
    for (let count = 0; count < 5; count++) this.shiftLow();
    return this.out.subarray(0, this.length);
  }

  bit(index: number, bit: number): void {
    this.normalize();
    const { probs } = this;
    const prob = probAt(probs, index);
    const bound = (this.range >>> MODEL_BITS) * prob;
    if (bit === 0) {
      this.range = bound;
      probs[index] = prob + ((MODEL_TOTAL - prob) >> MOVE_BITS);
    } else {
      this.low += bound;
      this.range -= bound;
      probs[index] = prob - (prob >> MOVE_BITS);
    }
  }

  /** Codes the lowest `bits` of `symbol`, highest first, by a tree of probabilities. */
  tree(base: number, bits: number, symbol: number): void {
    let node = 1;
    for (let place = bits - 1; place >= 0; place--) {
      const bit = (symbol >>> place) & 1;
      this.bit(base + node, bit);
      node = (node << 1) | bit;
    }
  }

  /** Like `tree`, lowest bit first. */
  reverseTree(base: number, bits: number, symbol: number): void {
    let node = 1;
    for (let place = 0; place < bits; place++) {
      const bit = (symbol >>> place) & 1;
      this.bit(base + node, bit);
      node = (node << 1) | bit;
    }
  }

  /** Codes bits that are 0 and 1 equally often. */
  direct(value: number, bits: number): void {
    for (let place = bits - 1; place >= 0; place--) {
      this.normalize();
      this.range = Math.floor(this.range / 2);
      if (((value >>> place) & 1) === 1) this.low += this.range;
    }
  }

  private normalize(): void {
    if (this.range >= TOP) return;
    this.shiftLow();
    this.range *= 256;
  }

  private shiftLow(): void {
    if (this.low < 0xff000000 || this.low > FULL) {
      const carry = this.low > FULL ? 1 : 0;
      for (let byte = this.cache; this.cacheSize > 0; this.cacheSize--) {
        this.out[this.length++] = byte + carry;
        byte = 0xff;
      }
      this.cache = (this.low >>> 24) & 0xff;
    }
    this.cacheSize++;
    this.low = (this.low & 0x00ffffff) * 256;
  }
}

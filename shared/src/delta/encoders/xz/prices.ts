// Ported from XZ Utils 5.4.1, liblzma/rangecoder/price.h, price_tablegen.c and liblzma/lzma/lzma_encoder_optimum_normal.c, by Igor Pavlov and Lasse
// Collin, which they put into the public domain.

import {
  ALIGN,
  ALIGN_BITS,
  END_POS_MODEL,
  LENGTH_HIGH,
  LENGTH_LOW,
  LENGTH_MIDDLE,
  LENGTH_STATES,
  MATCH_LENGTH,
  MIN_MATCH,
  MODEL_BITS,
  MODEL_TOTAL,
  POS_SLOT,
  REP_LENGTH,
  SPEC_POS,
  lengthStateOf,
} from '../../codecs/lzma-model.ts';
import { NICE_LENGTH } from './match-finder.ts';
import { byteAt, intAt, probAt } from './typed-arrays.ts';

export const INFINITE_PRICE = 2 ** 30;
const REDUCED_BITS = 4;
const SHIFT_BITS = 4;
const POS_STATES = 4;
/** Lengths above the one that is taken at once have no price. */
const LENGTHS = NICE_LENGTH + 1 - MIN_MATCH;
const FULL_DISTANCES = 128;
const SLOTS = 64;
const MATCHES_BETWEEN = 128;
const ALIGNED_BETWEEN = 2 ** ALIGN_BITS;

/** The price of a bit by its probability, in 16ths of a bit. */
const PRICES = Uint8Array.from({ length: MODEL_TOTAL >> REDUCED_BITS }, (_, at) => {
  let w = (at << REDUCED_BITS) + 2 ** (REDUCED_BITS - 1);
  let bits = 0;
  for (let count = 0; count < SHIFT_BITS; count++) {
    w *= w;
    for (bits *= 2; w >= 2 ** 16; bits++) w = Math.floor(w / 2);
  }
  return MODEL_BITS * 2 ** SHIFT_BITS - 15 - bits;
});

/** The price of a 0. */
export function price0(prob: number): number {
  return byteAt(PRICES, prob >> REDUCED_BITS);
}

/** The price of a 1. */
export function price1(prob: number): number {
  return byteAt(PRICES, (prob ^ (MODEL_TOTAL - 1)) >> REDUCED_BITS);
}

export function bitPrice(prob: number, bit: number): number {
  return byteAt(PRICES, (prob ^ (-bit & (MODEL_TOTAL - 1))) >> REDUCED_BITS);
}

export function treePrice(probs: Uint16Array, base: number, bits: number, value: number): number {
  let price = 0;
  for (let symbol = value + 2 ** bits; symbol !== 1; symbol >>= 1)
    price += bitPrice(probAt(probs, base + (symbol >> 1)), symbol & 1);
  return price;
}

function reverseTreePrice(probs: Uint16Array, base: number, bits: number, value: number): number {
  let price = 0;
  let node = 1;
  for (let place = 0; place < bits; place++) {
    const bit = (value >> place) & 1;
    price += bitPrice(probAt(probs, base + node), bit);
    node = (node << 1) | bit;
  }
  return price;
}

/** Distances (less one) fall into slots: two for each number of bits. */
export function slotOf(distance: number): number {
  if (distance < 4) return distance;
  const bits = 31 - Math.clz32(distance);
  return 2 * bits + ((distance >> (bits - 1)) & 1);
}

/** Prices of lengths and distances. They are renewed after the same number of symbols as in liblzma, since choices would differ otherwise. */
export class LzmaPrices {
  protected readonly probs: Uint16Array;
  private slotCount = 0;
  private readonly slots = new Int32Array(LENGTH_STATES * SLOTS);
  private readonly distances = new Int32Array(LENGTH_STATES * FULL_DISTANCES);
  private readonly aligned = new Int32Array(ALIGNED_BETWEEN);
  private readonly matchLengths = new Int32Array(POS_STATES * LENGTHS);
  private readonly repLengths = new Int32Array(POS_STATES * LENGTHS);
  private readonly matchCounters = new Int32Array(POS_STATES);
  private readonly repCounters = new Int32Array(POS_STATES);
  private matchCount = 0;
  private alignedCount = 0;

  constructor(probs: Uint16Array) {
    this.probs = probs;
  }

  /** Renews all prices, after all probabilities were reset. */
  begin(dictionaryBytes: number): void {
    this.slotCount = 2 * Math.ceil(Math.log2(dictionaryBytes));
    for (let posState = 0; posState < POS_STATES; posState++) {
      this.fillLengths(true, posState);
      this.fillLengths(false, posState);
    }
    this.matchCount = MATCHES_BETWEEN;
    this.alignedCount = ALIGNED_BETWEEN;
  }

  matchLength(length: number, posState: number): number {
    return intAt(this.matchLengths, posState * LENGTHS + length - MIN_MATCH);
  }

  repLength(length: number, posState: number): number {
    return intAt(this.repLengths, posState * LENGTHS + length - MIN_MATCH);
  }

  match(distance: number, length: number, posState: number): number {
    const lengthState = lengthStateOf(length);
    const price =
      distance < FULL_DISTANCES
        ? intAt(this.distances, lengthState * FULL_DISTANCES + distance)
        : intAt(this.slots, lengthState * SLOTS + slotOf(distance)) +
          intAt(this.aligned, distance & (ALIGNED_BETWEEN - 1));
    return price + this.matchLength(length, posState);
  }

  /** Called before a length is coded. */
  countLength(isMatch: boolean, posState: number): void {
    const counters = isMatch ? this.matchCounters : this.repCounters;
    const left = intAt(counters, posState) - 1;
    counters[posState] = left;
    if (left === 0) this.fillLengths(isMatch, posState);
  }

  /** Called for each match. */
  countMatch(slot: number): void {
    this.matchCount++;
    if (slot >= END_POS_MODEL) this.alignedCount++;
  }

  /** Renews prices that are due. Called only when all bytes that were looked at are coded. */
  refresh(): void {
    if (this.matchCount >= MATCHES_BETWEEN) this.fillDistances();
    if (this.alignedCount < ALIGNED_BETWEEN) return;
    for (let value = 0; value < ALIGNED_BETWEEN; value++)
      this.aligned[value] = reverseTreePrice(this.probs, ALIGN, ALIGN_BITS, value);
    this.alignedCount = 0;
  }

  private fillLengths(isMatch: boolean, posState: number): void {
    const { probs } = this;
    const [coder, prices, counters] = isMatch
      ? [MATCH_LENGTH, this.matchLengths, this.matchCounters]
      : [REP_LENGTH, this.repLengths, this.repCounters];
    counters[posState] = LENGTHS;
    const isLong = price1(probAt(probs, coder));
    const low = price0(probAt(probs, coder));
    const middle = isLong + price0(probAt(probs, coder + 1));
    const high = isLong + price1(probAt(probs, coder + 1));
    const to = posState * LENGTHS;
    for (let at = 0; at < 8; at++)
      prices[to + at] = low + treePrice(probs, coder + LENGTH_LOW + posState * 8, 3, at);
    for (let at = 8; at < 16; at++)
      prices[to + at] = middle + treePrice(probs, coder + LENGTH_MIDDLE + posState * 8, 3, at - 8);
    for (let at = 16; at < LENGTHS; at++)
      prices[to + at] = high + treePrice(probs, coder + LENGTH_HIGH, 8, at - 16);
  }

  private fillDistances(): void {
    const { probs, slots, distances } = this;
    for (let lengthState = 0; lengthState < LENGTH_STATES; lengthState++) {
      const of = lengthState * SLOTS;
      for (let slot = 0; slot < this.slotCount; slot++) {
        const directBits = slot < END_POS_MODEL ? 0 : (slot >> 1) - 1 - ALIGN_BITS;
        slots[of + slot] = treePrice(probs, POS_SLOT + of, 6, slot) + (directBits << SHIFT_BITS);
      }
      for (let distance = 0; distance < 4; distance++)
        distances[lengthState * FULL_DISTANCES + distance] = intAt(slots, of + distance);
    }
    for (let distance = 4; distance < FULL_DISTANCES; distance++) {
      const slot = slotOf(distance);
      const bits = (slot >> 1) - 1;
      const high = (2 | (slot & 1)) << bits;
      const price = reverseTreePrice(probs, SPEC_POS + high - slot, bits, distance - high);
      for (let lengthState = 0; lengthState < LENGTH_STATES; lengthState++)
        distances[lengthState * FULL_DISTANCES + distance] = price + intAt(slots, lengthState * SLOTS + slot);
    }
    this.matchCount = 0;
  }
}

// Ported from XZ Utils 5.4.1, liblzma/lzma/lzma_encoder_optimum_normal.c, by Igor Pavlov and Lasse Collin, which they put into the public domain.

import {
  FIRST_MATCH_STATE,
  IS_MATCH,
  IS_REP,
  IS_REP0_LONG,
  IS_REP_G0,
  IS_REP_G1,
  IS_REP_G2,
  POS_STATES,
} from '../../codecs/lzma-model.ts';
import { literalBase } from './lzma-state.ts';
import { bitPrice, LzmaPrices, price0, price1, treePrice } from './prices.ts';
import { byteAt, probAt } from './typed-arrays.ts';

/** Prices of LZMA's steps, by the state and the lowest bits of the position. */
export class SymbolPrices extends LzmaPrices {
  isMatch(state: number, posState: number, bit: number): number {
    return bitPrice(probAt(this.probs, IS_MATCH + state * POS_STATES + posState), bit);
  }

  isRep(state: number, bit: number): number {
    return bitPrice(probAt(this.probs, IS_REP + state), bit);
  }

  /** The price of the byte at `at`; `matchByte` is the one at the last distance before it. */
  literal(state: number, posState: number, bytes: Uint8Array, at: number, matchByte: number): number {
    const { probs } = this;
    const base = literalBase(byteAt(bytes, at - 1));
    const byte = byteAt(bytes, at);
    let price = this.isMatch(state, posState, 0);
    if (state < FIRST_MATCH_STATE) return price + treePrice(probs, base, 8, byte);
    let offset = 0x100;
    let match = matchByte;
    for (let symbol = byte + 0x100; symbol < 0x10000; ) {
      match <<= 1;
      const index = base + offset + (match & offset) + (symbol >> 8);
      price += bitPrice(probAt(probs, index), (symbol >> 7) & 1);
      symbol <<= 1;
      offset &= ~(match ^ symbol);
    }
    return price;
  }

  /** The price of repeating the byte at the last distance, without the bits that choose a match and a repeated distance. */
  shortRep(state: number, posState: number): number {
    const { probs } = this;
    return (
      price0(probAt(probs, IS_REP_G0 + state)) +
      price0(probAt(probs, IS_REP0_LONG + state * POS_STATES + posState))
    );
  }

  /** The price of choosing one of the last distances, without those bits and without the length. */
  pureRep(rep: number, state: number, posState: number): number {
    const { probs } = this;
    const isFirst = probAt(probs, IS_REP_G0 + state);
    if (rep === 0)
      return price0(isFirst) + price1(probAt(probs, IS_REP0_LONG + state * POS_STATES + posState));
    const isSecond = probAt(probs, IS_REP_G1 + state);
    if (rep === 1) return price1(isFirst) + price0(isSecond);
    return price1(isFirst) + price1(isSecond) + bitPrice(probAt(probs, IS_REP_G2 + state), rep - 2);
  }

  /** The price of the last distance, with its length and all bits. */
  lastRep(state: number, posState: number, length: number): number {
    return (
      this.isMatch(state, posState, 1) +
      this.isRep(state, 1) +
      this.repLength(length, posState) +
      this.pureRep(0, state, posState)
    );
  }
}

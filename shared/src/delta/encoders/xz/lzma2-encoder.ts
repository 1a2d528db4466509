// Ported from XZ Utils 5.4.1, liblzma/lzma/lzma_encoder.c and lzma2_encoder.c, by Igor Pavlov and Lasse Collin, which they put into the public domain.

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
  lengthStateOf,
  MATCH_LENGTH,
  MIN_MATCH,
  POS_SLOT,
  POS_STATES,
  REP_LENGTH,
  SPEC_POS,
} from '../../codecs/lzma-model.ts';
import type { PieceOutput } from '../piece-output.ts';
import { LITERAL_CONTEXT_BITS, literalBase, LzmaState, POS_BITS, POS_MASK, REPS } from './lzma-state.ts';
import { MAX_MATCH_LENGTH, MatchFinder } from './match-finder.ts';
import { LITERAL, Optimum, OPTIMUMS } from './optimum.ts';
import { slotOf } from './prices.ts';
import { MAX_CHUNK_BYTES, RangeEncoder } from './range-encoder.ts';
import { SymbolPrices } from './symbol-prices.ts';
import { byteAt, intAt } from './typed-arrays.ts';

/** The most plain bytes in a chunk. */
const MAX_PLAIN_CHUNK_BYTES = 2 ** 21;
/** A chunk is ended where the next symbol could make it too long. */
const MAX_STARTED_BYTES = MAX_CHUNK_BYTES - OPTIMUMS - 1;
const PROPERTIES = POS_BITS * 45 + LITERAL_CONTEXT_BITS;

/**
 * LZMA2, byte for byte as liblzma 5.4.1 makes it with preset 6 (lc=3, lp=0, pb=2, mode normal, nice_len=64, mf bt4, depth 48) and all input
 * at once. Up to 5.8.1, the sources of its encoder differ only in names and checks. Its memory (at most 11 MiB) is kept for the next piece.
 */
export class Lzma2Encoder {
  private readonly state = new LzmaState();
  private readonly coder = new RangeEncoder(this.state.probs);
  private readonly finder = new MatchFinder();
  private readonly prices = new SymbolPrices(this.state.probs);
  private readonly optimum = new Optimum(this.state, this.finder, this.prices);
  private dictionaryBytes = 0;
  /** How many bytes are coded already. */
  private position = 0;

  /**
   * Writes the chunks, and the byte that ends the stream.
   * @param dictionaryBytes 4 KiB to 1 MiB
   */
  encode(plain: Uint8Array, dictionaryBytes: number, output: PieceOutput): void {
    const { finder } = this;
    let isFirst = true;
    finder.begin(plain, dictionaryBytes);
    this.dictionaryBytes = dictionaryBytes;
    this.position = 0;
    this.beginChoices();
    let [hasProperties, hasState] = [false, true];
    for (let from = 0; from < plain.length; ) {
      if (!hasState) this.beginChoices();
      const coded = this.encodeChunk();
      const length = finder.readPos - finder.readAhead - from;
      if (coded.length < length) {
        output.add(header(length, coded.length, { isFirst, hasProperties, hasState }));
        output.add(coded);
        [isFirst, hasProperties, hasState] = [false, true, true];
        from += length;
        continue;
      }
      const stored = length + finder.readAhead;
      finder.readAhead = 0;
      output.add(storedHeader(stored, isFirst));
      output.add(plain.subarray(from, from + stored));
      from += stored;
      [isFirst, hasState] = [false, false];
    }
    output.add(Uint8Array.of(0));
  }

  private beginChoices(): void {
    this.state.begin();
    this.prices.begin(this.dictionaryBytes);
    this.optimum.begin();
  }

  /** Codes symbols until the chunk is full or the input ends. */
  private encodeChunk(): Uint8Array {
    const { coder, finder, optimum } = this;
    coder.begin();
    const limit = finder.readPos - finder.readAhead + MAX_PLAIN_CHUNK_BYTES - MAX_MATCH_LENGTH;
    if (this.position === 0) this.encodeFirst();
    while (finder.readPos - finder.readAhead < limit && coder.pendingLength < MAX_STARTED_BYTES) {
      if (finder.available === 0 && finder.readAhead === 0) break;
      optimum.choose(this.position);
      this.encodeSymbol(optimum.back, optimum.length);
      this.position += optimum.length;
    }
    return coder.finish();
  }

  /** The first symbol is always a literal. */
  private encodeFirst(): void {
    this.finder.skip(1);
    this.finder.readAhead = 0;
    this.coder.bit(IS_MATCH, 0);
    this.coder.tree(literalBase(0), 8, byteAt(this.finder.bytes, 0));
    this.position = 1;
  }

  private encodeSymbol(back: number, length: number): void {
    const { coder, state } = this;
    const posState = this.position & POS_MASK;
    const isMatch = IS_MATCH + state.state * POS_STATES + posState;
    if (back === LITERAL) {
      coder.bit(isMatch, 0);
      this.literal();
    } else {
      coder.bit(isMatch, 1);
      coder.bit(IS_REP + state.state, back < REPS ? 1 : 0);
      if (back < REPS) this.rep(posState, back, length);
      else this.match(posState, back - REPS, length);
    }
    this.finder.readAhead -= length;
  }

  private literal(): void {
    const { coder, finder, state } = this;
    const { bytes } = finder;
    const at = finder.readPos - finder.readAhead;
    const base = literalBase(byteAt(bytes, at - 1));
    const byte = byteAt(bytes, at);
    if (state.state < FIRST_MATCH_STATE) coder.tree(base, 8, byte);
    else {
      let match = byteAt(bytes, at - intAt(state.reps, 0) - 1);
      let offset = 0x100;
      for (let symbol = byte + 0x100; symbol < 0x10000; ) {
        match <<= 1;
        coder.bit(base + offset + (match & offset) + (symbol >> 8), (symbol >> 7) & 1);
        symbol <<= 1;
        offset &= ~(match ^ symbol);
      }
    }
    state.state = afterLiteral(state.state);
  }

  private match(posState: number, distance: number, length: number): void {
    const { coder, state } = this;
    state.state = afterMatch(state.state);
    this.length(true, posState, length);
    const slot = slotOf(distance);
    coder.tree(POS_SLOT + lengthStateOf(length) * 64, 6, slot);
    if (slot >= 4) {
      const bits = (slot >> 1) - 1;
      const high = (2 | (slot & 1)) << bits;
      const rest = distance - high;
      if (slot < END_POS_MODEL) coder.reverseTree(SPEC_POS + high - slot, bits, rest);
      else {
        coder.direct(rest >> ALIGN_BITS, bits - ALIGN_BITS);
        coder.reverseTree(ALIGN, ALIGN_BITS, rest & (2 ** ALIGN_BITS - 1));
      }
    }
    state.reps.copyWithin(1, 0, REPS - 1);
    state.reps[0] = distance;
    this.prices.countMatch(slot);
  }

  private rep(posState: number, rep: number, length: number): void {
    const { coder, state } = this;
    coder.bit(IS_REP_G0 + state.state, rep === 0 ? 0 : 1);
    if (rep === 0) coder.bit(IS_REP0_LONG + state.state * POS_STATES + posState, length === 1 ? 0 : 1);
    else {
      coder.bit(IS_REP_G1 + state.state, rep === 1 ? 0 : 1);
      if (rep > 1) coder.bit(IS_REP_G2 + state.state, rep - 2);
      const distance = intAt(state.reps, rep);
      state.reps.copyWithin(1, 0, rep);
      state.reps[0] = distance;
    }
    if (length === 1) state.state = afterShortRep(state.state);
    else {
      this.length(false, posState, length);
      state.state = afterRep(state.state);
    }
  }

  private length(isMatch: boolean, posState: number, length: number): void {
    const { coder } = this;
    const of = isMatch ? MATCH_LENGTH : REP_LENGTH;
    const value = length - MIN_MATCH;
    this.prices.countLength(isMatch, posState);
    coder.bit(of, value < 8 ? 0 : 1);
    if (value < 8) coder.tree(of + LENGTH_LOW + posState * 8, 3, value);
    else {
      coder.bit(of + 1, value < 16 ? 0 : 1);
      if (value < 16) coder.tree(of + LENGTH_MIDDLE + posState * 8, 3, value - 8);
      else coder.tree(of + LENGTH_HIGH, 8, value - 16);
    }
  }
}

interface ChunkBefore {
  readonly isFirst: boolean;
  readonly hasProperties: boolean;
  readonly hasState: boolean;
}

function header(plainLength: number, codedLength: number, before: ChunkBefore): Uint8Array {
  const { isFirst, hasProperties, hasState } = before;
  const reset = !hasProperties ? (isFirst ? 3 : 2) : hasState ? 0 : 1;
  const [plain, coded] = [plainLength - 1, codedLength - 1];
  const bytes = [
    0x80 + (reset << 5) + (plain >> 16),
    (plain >> 8) & 0xff,
    plain & 0xff,
    coded >> 8,
    coded & 0xff,
  ];
  return Uint8Array.from(hasProperties ? bytes : [...bytes, PROPERTIES]);
}

function storedHeader(length: number, isFirst: boolean): Uint8Array {
  return Uint8Array.of(isFirst ? 1 : 2, (length - 1) >> 8, (length - 1) & 0xff);
}

// Ported from XZ Utils 5.4.1, liblzma/lzma/lzma_encoder_optimum_normal.c, by Igor Pavlov and Lasse Collin, which they put into the public domain.

import { afterLiteral, afterMatch, afterRep, afterShortRep } from '../../codecs/lzma-model.ts';
import { type LzmaState, POS_MASK, REPS } from './lzma-state.ts';
import { MAX_MATCH_LENGTH, type MatchFinder, NICE_LENGTH } from './match-finder.ts';
import { INFINITE_PRICE } from './prices.ts';
import type { SymbolPrices } from './symbol-prices.ts';
import { byteAt, equalLength, intAt } from './typed-arrays.ts';

/** How many bytes ahead the cheapest way is searched. */
export const OPTIMUMS = 4096;
/** Stands for a literal where a distance is expected. */
export const LITERAL = -1;
const SHORT_REP = 0;
const DONE = -1;

/**
 * Chooses the next symbols: the way with the lowest price through the next bytes, as liblzma's mode "normal" does. For each place it keeps
 * the last step of the cheapest way there. A step is a literal, a match (`back`: its distance less one, plus REPS), or a repeated distance
 * (`back`: which one), and may include a literal and a repeated distance after it.
 */
export class Optimum {
  /** Length of the chosen symbol. */
  length = 0;
  back = LITERAL;
  private readonly state: LzmaState;
  private readonly finder: MatchFinder;
  private readonly prices: SymbolPrices;
  private endIndex = 0;
  private currentIndex = 0;
  private longest = 0;

  private readonly price = new Int32Array(OPTIMUMS);
  private readonly states = new Int32Array(OPTIMUMS);
  private readonly from = new Int32Array(OPTIMUMS);
  private readonly backs = new Int32Array(OPTIMUMS);
  /** 1 where a literal lies before the step, and where another step before that. */
  private readonly hasLiteral = new Uint8Array(OPTIMUMS);
  private readonly hasSecond = new Uint8Array(OPTIMUMS);
  private readonly secondFrom = new Int32Array(OPTIMUMS);
  private readonly secondBacks = new Int32Array(OPTIMUMS);
  private readonly repsAt = new Int32Array(OPTIMUMS * REPS);

  // State and distances at the place from which ways go on.
  private readonly reps = new Int32Array(REPS);
  private readonly repLengths = new Int32Array(REPS);
  private place = 0;
  private end = 0;
  private position = 0;
  private at = 0;
  private stateNow = 0;
  private posState = 0;
  private fullLimit = 0;
  private matchPrice = 0;
  private repPrice = 0;

  constructor(state: LzmaState, finder: MatchFinder, prices: SymbolPrices) {
    this.state = state;
    this.finder = finder;
    this.prices = prices;
  }

  begin(): void {
    this.endIndex = 0;
    this.currentIndex = 0;
  }

  /** Sets `length` and `back`. `position` is that of the next byte that isn't coded. */
  choose(position: number): void {
    const { finder } = this;
    if (this.endIndex !== this.currentIndex) {
      const next = intAt(this.from, this.currentIndex);
      this.take(intAt(this.backs, this.currentIndex), next - this.currentIndex);
      this.currentIndex = next;
      return;
    }
    if (finder.readAhead === 0) this.prices.refresh();
    this.end = this.first(position);
    if (this.end === DONE) return;
    this.reps.set(this.state.reps);
    let place = 1;
    for (; place < this.end; place++) {
      this.longest = finder.find();
      if (this.longest >= NICE_LENGTH) break;
      this.goOn(place, position + place);
    }
    this.walkBack(place);
  }

  private take(back: number, length: number): void {
    this.back = back;
    this.length = length;
  }

  private takeLiteral(): number {
    this.take(LITERAL, 1);
    return DONE;
  }

  /** Starts the search with the first steps. @returns how far they go, or DONE where the choice is clear */
  private first(position: number): number {
    const { finder } = this;
    if (finder.readAhead === 0) this.longest = finder.find();
    const limit = Math.min(finder.available + 1, MAX_MATCH_LENGTH);
    if (limit < 2) return this.takeLiteral();
    const at = finder.readPos - 1;
    const best = this.measureReps(at, limit);
    const bestLength = intAt(this.repLengths, best);
    if (bestLength >= NICE_LENGTH) return this.takeLong(best, bestLength);
    if (this.longest >= NICE_LENGTH)
      return this.takeLong(intAt(finder.distances, finder.count - 1) + REPS, this.longest);
    const { bytes } = finder;
    const matchByte = byteAt(bytes, at - intAt(this.state.reps, 0) - 1);
    if (this.longest < 2 && byteAt(bytes, at) !== matchByte && bestLength < 2) return this.takeLiteral();
    const { state } = this.state;
    this.states[0] = state;
    this.place = 0;
    this.at = at;
    this.stateNow = state;
    this.position = position;
    this.posState = position & POS_MASK;
    this.firstSteps(matchByte);
    const end = Math.max(this.longest, bestLength);
    if (end < 2) {
      this.take(intAt(this.backs, 1), 1);
      return DONE;
    }
    this.repsAt.set(this.state.reps);
    this.price.fill(INFINITE_PRICE, 2, end + 1);
    for (let rep = 0; rep < REPS; rep++) this.addRep(rep, intAt(this.repLengths, rep));
    this.addFirstMatches();
    return end;
  }

  private takeLong(back: number, length: number): number {
    this.take(back, length);
    this.finder.skip(length - 1);
    return DONE;
  }

  /** @returns which of the repeated distances gives the longest match */
  private measureReps(at: number, limit: number): number {
    const { bytes } = this.finder;
    let best = 0;
    for (let rep = 0; rep < REPS; rep++) {
      const length = equalLength(bytes, at, at - intAt(this.state.reps, rep) - 1, 0, limit);
      this.repLengths[rep] = length < 2 ? 0 : length;
      if (intAt(this.repLengths, rep) > intAt(this.repLengths, best)) best = rep;
    }
    return best;
  }

  /** Adds a literal or a repeated byte as first steps. */
  private firstSteps(matchByte: number): void {
    const byte = byteAt(this.finder.bytes, this.at);
    this.setPrices(0);
    this.set(1, this.literalPrice(matchByte), LITERAL, 0);
    if (matchByte !== byte) return;
    const price = this.repPrice + this.prices.shortRep(this.stateNow, this.posState);
    this.offer(1, price, SHORT_REP, 0);
  }

  private addFirstMatches(): void {
    const { finder, longest } = this;
    const rep0 = intAt(this.repLengths, 0);
    let length = rep0 >= 2 ? rep0 + 1 : 2;
    if (length > longest) return;
    const price = this.matchPrice + this.prices.isRep(this.stateNow, 0);
    let match = 0;
    while (length > intAt(finder.lengths, match)) match++;
    for (; ; length++) {
      const distance = intAt(finder.distances, match);
      this.offer(length, price + this.prices.match(distance, length, this.posState), distance + REPS, 0);
      if (length === intAt(finder.lengths, match) && ++match === finder.count) return;
    }
  }

  /** Adds all steps from a place to which the cheapest way is known. */
  private goOn(place: number, position: number): void {
    const { finder } = this;
    const { bytes } = finder;
    this.place = place;
    this.position = position;
    this.posState = position & POS_MASK;
    this.at = finder.readPos - 1;
    this.fullLimit = Math.min(finder.available + 1, OPTIMUMS - 1 - place);
    this.arrive(place);
    const price = intAt(this.price, place);
    const byte = byteAt(bytes, this.at);
    const matchByte = byteAt(bytes, this.at - intAt(this.reps, 0) - 1);
    this.setPrices(price);
    const literalPrice = price + this.literalPrice(matchByte);
    const isNextLiteral = this.addOneByte(literalPrice, matchByte === byte);
    if (this.fullLimit < 2) return;
    if (!isNextLiteral && matchByte !== byte) this.addLiteralAndRep(literalPrice);
    const limit = Math.min(this.fullLimit, NICE_LENGTH);
    let start = 2;
    for (let rep = 0; rep < REPS; rep++) {
      const back = this.at - intAt(this.reps, rep) - 1;
      const length = equalLength(bytes, this.at, back, 0, limit);
      if (length < 2) continue;
      this.reach(place + length);
      const repPrice = this.addRep(rep, length);
      if (rep === 0) start = length + 1;
      this.addSecond(rep, length, repPrice, afterRep(this.stateNow));
    }
    this.addMatches(start, limit);
  }

  /** Sets the state and the last distances at this place, by the way that leads to it. */
  private arrive(place: number): void {
    let from = intAt(this.from, place);
    let state: number;
    if (this.hasLiteral[place] === 1) {
      from--;
      if (this.hasSecond[place] === 1) {
        state = intAt(this.states, intAt(this.secondFrom, place));
        state = intAt(this.secondBacks, place) < REPS ? afterRep(state) : afterMatch(state);
      } else state = intAt(this.states, from);
      state = afterLiteral(state);
    } else state = intAt(this.states, from);
    if (from === place - 1)
      state = this.backs[place] === SHORT_REP ? afterShortRep(state) : afterLiteral(state);
    else {
      let back = intAt(this.backs, place);
      if (this.hasLiteral[place] === 1 && this.hasSecond[place] === 1) {
        from = intAt(this.secondFrom, place);
        back = intAt(this.secondBacks, place);
        state = afterRep(state);
      } else state = back < REPS ? afterRep(state) : afterMatch(state);
      this.takeReps(from, back);
    }
    this.states[place] = state;
    this.stateNow = state;
    this.repsAt.set(this.reps, place * REPS);
  }

  /** Sets the last distances after a step with `back` from `from`. */
  private takeReps(from: number, back: number): void {
    const { reps, repsAt } = this;
    const base = from * REPS;
    const isOld = back < REPS;
    reps[0] = isOld ? intAt(repsAt, base + back) : back - REPS;
    const moved = isOld ? back : REPS - 1;
    for (let rep = 1; rep < REPS; rep++)
      reps[rep] = intAt(repsAt, rep <= moved ? base + rep - 1 : base + rep);
  }

  /** Adds a literal or a repeated byte. @returns whether one of them is the cheapest way to the next place */
  private addOneByte(literalPrice: number, isEqual: boolean): boolean {
    const { place } = this;
    const next = place + 1;
    let isTaken = false;
    if (literalPrice < intAt(this.price, next)) {
      this.set(next, literalPrice, LITERAL, place);
      isTaken = true;
    }
    if (!isEqual || (intAt(this.from, next) < place && this.backs[next] === SHORT_REP)) return isTaken;
    const price = this.repPrice + this.prices.shortRep(this.stateNow, this.posState);
    if (price > intAt(this.price, next)) return isTaken;
    this.set(next, price, SHORT_REP, place);
    return true;
  }

  /** Adds a literal with the last distance again after it. */
  private addLiteralAndRep(literalPrice: number): void {
    const { place, at } = this;
    const limit = Math.min(this.fullLimit, NICE_LENGTH + 1);
    const length = equalLength(this.finder.bytes, at, at - intAt(this.reps, 0) - 1, 1, limit) - 1;
    if (length < 2) return;
    const state = afterLiteral(this.stateNow);
    const posState = (this.position + 1) & POS_MASK;
    const price = literalPrice + this.prices.lastRep(state, posState, length);
    const to = place + 1 + length;
    this.reach(to);
    if (price >= intAt(this.price, to)) return;
    this.price[to] = price;
    this.from[to] = place + 1;
    this.backs[to] = 0;
    this.hasLiteral[to] = 1;
    this.hasSecond[to] = 0;
  }

  /** Adds a repeated distance with each possible length. @returns its price without a length */
  private addRep(rep: number, longest: number): number {
    if (longest < 2) return 0;
    const { place, posState } = this;
    const price = this.repPrice + this.prices.pureRep(rep, this.stateNow, posState);
    for (let length = longest; length >= 2; length--)
      this.offer(place + length, price + this.prices.repLength(length, posState), rep, place);
    return price + this.prices.repLength(longest, posState);
  }

  private addMatches(start: number, limit: number): void {
    const { finder, place } = this;
    const { lengths } = finder;
    let { longest } = this;
    let { count } = finder;
    if (longest > limit) {
      longest = limit;
      count = 0;
      while (longest > intAt(lengths, count)) count++;
      lengths[count++] = longest;
    }
    if (longest < start) return;
    const price = this.matchPrice + this.prices.isRep(this.stateNow, 0);
    this.reach(place + longest);
    let match = 0;
    while (start > intAt(lengths, match)) match++;
    for (let length = start; ; length++) {
      const distance = intAt(finder.distances, match);
      const withLength = price + this.prices.match(distance, length, this.posState);
      this.offer(place + length, withLength, distance + REPS, place);
      if (length !== intAt(lengths, match)) continue;
      this.addSecond(distance + REPS, length, withLength, afterMatch(this.stateNow));
      if (++match === count) return;
    }
  }

  /** Adds to a step of `length` a literal and the same distance again. `price` and `state` are those after the step. */
  private addSecond(back: number, length: number, price: number, state: number): void {
    const { place, at, finder } = this;
    const { bytes } = finder;
    const from = at - (back < REPS ? intAt(this.reps, back) : back - REPS) - 1;
    const limit = Math.min(this.fullLimit, length + 1 + NICE_LENGTH);
    const second = length + 1 < limit ? equalLength(bytes, at, from, length + 1, limit) - length - 1 : 0;
    if (second < 2) return;
    const position = this.position + length;
    const matchByte = byteAt(bytes, from + length);
    const literal = this.prices.literal(state, position & POS_MASK, bytes, at + length, matchByte);
    const rep = this.prices.lastRep(afterLiteral(state), (position + 1) & POS_MASK, second);
    const total = price + literal + rep;
    const to = place + length + 1 + second;
    this.reach(to);
    if (total >= intAt(this.price, to)) return;
    this.price[to] = total;
    this.from[to] = place + length + 1;
    this.backs[to] = 0;
    this.hasLiteral[to] = 1;
    this.hasSecond[to] = 1;
    this.secondFrom[to] = place;
    this.secondBacks[to] = back;
  }

  private reach(end: number): void {
    while (this.end < end) this.price[++this.end] = INFINITE_PRICE;
  }

  private offer(to: number, price: number, back: number, from: number): void {
    if (price < intAt(this.price, to)) this.set(to, price, back, from);
  }

  private set(to: number, price: number, back: number, from: number): void {
    this.price[to] = price;
    this.from[to] = from;
    this.backs[to] = back;
    this.hasLiteral[to] = 0;
  }

  /** Reverses the links of the cheapest way, so that it can be followed from its beginning. */
  private walkBack(last: number): void {
    const { from, backs } = this;
    this.endIndex = last;
    let place = last;
    let nextFrom = intAt(from, place);
    let nextBack = intAt(backs, place);
    do {
      if (this.hasLiteral[place] === 1) this.unfold(place, nextFrom);
      const before = nextFrom;
      const back = nextBack;
      nextBack = intAt(backs, before);
      nextFrom = intAt(from, before);
      backs[before] = back;
      from[before] = place;
      place = before;
    } while (place !== 0);
    this.currentIndex = intAt(from, 0);
    this.take(intAt(backs, 0), this.currentIndex);
  }

  private unfold(place: number, literalEnd: number): void {
    this.backs[literalEnd] = LITERAL;
    this.hasLiteral[literalEnd] = 0;
    this.from[literalEnd] = literalEnd - 1;
    if (this.hasSecond[place] !== 1) return;
    this.hasLiteral[literalEnd - 1] = 0;
    this.from[literalEnd - 1] = intAt(this.secondFrom, place);
    this.backs[literalEnd - 1] = intAt(this.secondBacks, place);
  }

  private literalPrice(matchByte: number): number {
    return this.prices.literal(this.stateNow, this.posState, this.finder.bytes, this.at, matchByte);
  }

  private setPrices(price: number): void {
    const { prices, stateNow } = this;
    this.matchPrice = price + prices.isMatch(stateNow, this.posState, 1);
    this.repPrice = this.matchPrice + prices.isRep(stateNow, 1);
  }
}

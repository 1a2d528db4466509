// Ported from lz4 1.9.4, lib/lz4hc.c: Copyright (C) 2011-2020, Yann Collet. BSD-2-Clause licence: see lz4-match.ts.

import { Lz4MatchFinder, MIN_MATCH } from './lz4-match.ts';

/** The last match of a block begins this many bytes before its end, and ends five before it. */
const LAST_MATCH_BYTES = 12;
const LAST_LITERAL_BYTES = 5;
/** Up to this length a match costs no more than its token. */
const OPTIMAL_MATCH = 18;

interface Match {
  at: number;
  from: number;
  length: number;
}

/**
 * `LZ4_compress_HC` at level 9, from lz4 1.9.4 (`LZ4HC_compress_hashChain` in `lz4hc.c`, BSD-2-Clause, Yann Collet), with the same output:
 * each choice between overlapping matches is the original's. Writes one LZ4 block without any header; bytes that don't fit `into` are
 * dropped.
 * @returns the length of the whole block
 */
export function encodeLz4Hc(source: Uint8Array, into: Uint8Array): number {
  return new Lz4HcEncoder(source, into).encode();
}

export class Lz4HcEncoder {
  private readonly source: Uint8Array;
  /** A write beyond its end does nothing, by intention. */
  private readonly out: Uint8Array;
  private written = 0;
  /** Where the literals that aren't written yet begin. */
  private anchor = 0;
  private readonly finder: Lz4MatchFinder;
  /** The last position where a match may begin. */
  private readonly lastStart: number;
  private first: Match = { at: 0, from: 0, length: 0 };
  private second: Match = { at: 0, from: 0, length: 0 };
  private third: Match = { at: 0, from: 0, length: 0 };
  /** The first match as it was found, before others moved it. */
  private original: Match = { at: 0, from: 0, length: 0 };

  constructor(source: Uint8Array, into: Uint8Array) {
    this.source = source;
    const { length } = source;
    this.out = into;
    this.finder = new Lz4MatchFinder(source, length - LAST_LITERAL_BYTES);
    this.lastStart = length - LAST_MATCH_BYTES;
  }

  encode(): number {
    if (this.source.length > LAST_MATCH_BYTES) {
      let at = 0;
      while (at <= this.lastStart) {
        const length = this.finder.search(at, at, MIN_MATCH - 1);
        if (length < MIN_MATCH) {
          at++;
          continue;
        }
        this.first = { at: this.finder.start, from: this.finder.match, length };
        this.original = this.first;
        this.choose();
        at = this.anchor;
      }
    }
    this.writeLastLiterals();
    return this.written;
  }

  /** Writes sequences from the first match on, until no match overlaps the last written one with a longer one. */
  private choose(): void {
    for (let isSecondKnown = false; ; ) {
      if (!isSecondKnown) {
        const found = this.chooseSecond();
        if (found === 'done') return;
        if (found === 'again') continue;
      }
      this.shortenFirst();
      const { second } = this;
      const length = this.searchFrom(second, 3);
      if (length === second.length) {
        this.writeBoth();
        return;
      }
      this.third = { at: this.finder.start, from: this.finder.match, length };
      isSecondKnown = this.chooseThird();
    }
  }

  /** Looks for a longer match that overlaps the end of this one. Returns its length, or this one's where there is none. */
  private searchFrom(match: Match, overlap: number): number {
    const end = match.at + match.length;
    return end <= this.lastStart ? this.finder.search(end - overlap, match.at, match.length) : match.length;
  }

  private chooseSecond(): 'done' | 'again' | 'found' {
    const length = this.searchFrom(this.first, 2);
    if (length === this.first.length) {
      this.write(this.first);
      return 'done';
    }
    this.second = { at: this.finder.start, from: this.finder.match, length };
    // The match that was found first fits before the second one after all.
    if (this.original.at < this.first.at && this.second.at < this.first.at + this.original.length)
      this.first = this.original;
    if (this.second.at - this.first.at >= 3) return 'found';
    this.first = this.second;
    return 'again';
  }

  /** The second match gives its head to the first, as far as that costs nothing. */
  private shortenFirst(): void {
    const { first, second } = this;
    const distance = second.at - first.at;
    if (distance >= OPTIMAL_MATCH) return;
    const length = Math.min(first.length, OPTIMAL_MATCH, distance + second.length - MIN_MATCH);
    if (length > distance) this.second = without(second, length - distance);
  }

  private writeBoth(): void {
    const { first, second } = this;
    this.write({ ...first, length: Math.min(first.length, second.at - first.at) });
    this.write(second);
  }

  /** With three matches in a row, decides which of them are written. Returns whether a second match is left to go on from. */
  private chooseThird(): boolean {
    const { first, third } = this;
    const firstEnd = first.at + first.length;
    if (third.at >= firstEnd + 3) {
      this.writeFirstOfThree();
      this.first = this.second;
      this.second = third;
      return true;
    }
    if (third.at < firstEnd) {
      this.second = third;
      return true;
    }
    // No room for the second match: the third follows the first at once.
    if (this.second.at < firstEnd) {
      this.second = without(this.second, firstEnd - this.second.at);
      if (this.second.length < MIN_MATCH) this.second = third;
    }
    this.write(first);
    this.first = third;
    this.original = this.second;
    return false;
  }

  private writeFirstOfThree(): void {
    const { first, second } = this;
    const distance = second.at - first.at;
    if (distance >= first.length) {
      this.write(first);
    } else if (distance >= OPTIMAL_MATCH) {
      this.write({ ...first, length: distance });
    } else {
      const length = Math.min(first.length, OPTIMAL_MATCH, distance + second.length - MIN_MATCH);
      if (length > distance) this.second = without(second, length - distance);
      this.write({ ...first, length });
    }
  }

  private write({ at, from, length }: Match): void {
    const token = this.writeLiterals(at);
    const offset = at - from;
    this.out[this.written++] = offset & 0xff;
    this.out[this.written++] = offset >>> 8;
    const rest = length - MIN_MATCH;
    this.out[token] = (this.out[token] ?? 0) | Math.min(rest, 15);
    if (rest >= 15) this.writeLength(rest - 15);
    this.anchor = at + length;
  }

  /** Writes a token with the literals up to `end`; returns where the token stands. */
  private writeLiterals(end: number): number {
    const count = end - this.anchor;
    const token = this.written++;
    this.out[token] = Math.min(count, 15) << 4;
    if (count >= 15) this.writeLength(count - 15);
    const room = this.out.length - this.written;
    if (room > 0)
      this.out.set(this.source.subarray(this.anchor, Math.min(end, this.anchor + room)), this.written);
    this.written += count;
    return token;
  }

  private writeLength(length: number): void {
    let rest = length;
    for (; rest >= 255; rest -= 255) this.out[this.written++] = 255;
    this.out[this.written++] = rest;
  }

  private writeLastLiterals(): void {
    this.writeLiterals(this.source.length);
  }
}

/** The match without its first bytes. */
function without(match: Match, bytes: number): Match {
  return { at: match.at + bytes, from: match.from + bytes, length: match.length - bytes };
}

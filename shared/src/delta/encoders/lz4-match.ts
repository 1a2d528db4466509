// Ported from lz4 1.9.4, lib/lz4hc.c: Copyright (C) 2011-2020, Yann Collet. BSD-2-Clause licence:
// Redistribution and use in source and binary forms, with or without modification, are permitted provided that the following conditions are met:
// redistributions of source code must retain the above copyright notice, this list of conditions and the following disclaimer; redistributions in
// binary form must reproduce the above copyright notice, this list of conditions and the following disclaimer in the documentation and/or other
// materials provided with the distribution. THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED
// WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO
// EVENT SHALL THE COPYRIGHT OWNER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES
// (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED
// AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
// OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.

/** A match reaches back this far at most: offsets have 16 bits. */
const MAX_DISTANCE = 65_535;
const HASH_BITS = 15;
const CHAIN_MASK = 0xffff;
/** How many candidates level 9 looks at for each position. */
const SEARCHES = 256;
export const MIN_MATCH = 4;

/** Tables for the one block that is being compressed. They are reused, because new ones for each block would be garbage. */
const HASH_TABLE = new Int32Array(1 << HASH_BITS);
const CHAIN = new Uint16Array(CHAIN_MASK + 1);

/**
 * The match finder of `LZ4_compress_HC` at level 9, from lz4 1.9.4 (`lz4hc.c`, BSD-2-Clause, Yann Collet): chains of positions that share a
 * hash of four bytes, without a dictionary. Only one may be in use at a time. Each decision follows the original, since the output must be
 * the same.
 */
export class Lz4MatchFinder {
  /** What the last search found: `length` bytes at `start` equal those at `match`. */
  start = 0;
  match = 0;
  private readonly hashTable = HASH_TABLE.fill(-1 - MAX_DISTANCE);
  private readonly chain = CHAIN.fill(MAX_DISTANCE);
  private readonly source: Uint8Array;
  private readonly view: DataView;
  private nextToInsert = 0;
  /** No match reaches beyond it: the last five bytes of a block are literals. */
  private readonly end: number;
  /** Length of the run of one byte at the searched position; 0: not looked at yet; -1: there is none. */
  private runLength = 0;

  constructor(source: Uint8Array, end: number) {
    this.source = source;
    this.view = new DataView(source.buffer, source.byteOffset, source.byteLength);
    this.end = end;
  }

  /**
   * Looks for a match that covers `at`, is longer than `longest` and begins at `low` or later. Returns its length, or `longest` where there is none;
   * `start` and `match` change only where there is one.
   */
  search(at: number, low: number, longest: number): number {
    this.insertBefore(at);
    const { view, chain } = this;
    const lowest = Math.max(0, at - MAX_DISTANCE);
    const lookBack = at - low;
    const pattern = view.getUint32(at, true);
    let best = longest;
    let candidate = this.hashTable[hashOf(pattern)] ?? 0;
    this.runLength = 0;
    for (let attempts = SEARCHES; candidate >= lowest && attempts > 0; attempts--) {
      // A longer match is possible only if the two bytes at its new end are equal: the cheapest test.
      if (
        view.getUint16(low + best - 1, true) === view.getUint16(candidate - lookBack + best - 1, true) &&
        view.getUint32(candidate, true) === pattern
      ) {
        const back = lookBack > 0 ? this.countBack(at, candidate, low) : 0;
        const length = MIN_MATCH + this.count(at + MIN_MATCH, candidate + MIN_MATCH) + back;
        if (length > best) {
          best = length;
          this.match = candidate - back;
          this.start = at - back;
        }
      }
      const distance = chain[candidate & CHAIN_MASK] ?? 0;
      if (distance === 1 && this.isRun(at, pattern, candidate - 1, lowest)) {
        const next = this.searchRun(at, candidate - 1, { pattern, lowest, lookBack, best });
        candidate = next.candidate;
        best = next.best;
      } else {
        candidate -= distance;
      }
    }
    return best;
  }

  private insertBefore(at: number): void {
    const { view, chain, hashTable } = this;
    for (let position = this.nextToInsert; position < at; position++) {
      const hash = hashOf(view.getUint32(position, true));
      const distance = position - (hashTable[hash] ?? 0);
      chain[position & CHAIN_MASK] = distance > MAX_DISTANCE ? MAX_DISTANCE : distance;
      hashTable[hash] = position;
    }
    this.nextToInsert = Math.max(this.nextToInsert, at);
  }

  /** How many bytes from both positions on are equal, up to the end. */
  private count(a: number, b: number): number {
    const { view, source, end } = this;
    let length = 0;
    while (a + length + 4 <= end && view.getUint32(a + length, true) === view.getUint32(b + length, true))
      length += 4;
    while (a + length < end && source[a + length] === source[b + length]) length++;
    return length;
  }

  private countBack(a: number, b: number, low: number): number {
    const { source, view } = this;
    const most = Math.min(a - low, b);
    let length = 0;
    while (
      length + 4 <= most &&
      view.getUint32(a - length - 4, true) === view.getUint32(b - length - 4, true)
    )
      length += 4;
    while (length < most && source[a - length - 1] === source[b - length - 1]) length++;
    return length;
  }

  /** Whether a run of one byte begins at `at`, and the candidate lies in a run of it as well. */
  private isRun(at: number, pattern: number, candidate: number, lowest: number): boolean {
    if (this.runLength === 0) {
      const isOneByte = (pattern & 0xffff) === pattern >>> 16 && (pattern & 0xff) === pattern >>> 24;
      this.runLength = isOneByte ? this.countRun(at + MIN_MATCH, pattern & 0xff) + MIN_MATCH : -1;
    }
    return this.runLength > 0 && candidate >= lowest && this.view.getUint32(candidate, true) === pattern;
  }

  private countRun(from: number, byte: number): number {
    const { source, view, end } = this;
    const four = Math.imul(byte, 0x01_01_01_01) >>> 0;
    let to = from;
    while (to + 4 <= end && view.getUint32(to, true) === four) to += 4;
    while (to < end && source[to] === byte) to++;
    return to - from;
  }

  /** Goes on to that place of a run that may give the longest match, instead of through all of it. */
  private searchRun(
    at: number,
    candidate: number,
    { pattern, lowest, lookBack, best }: { pattern: number; lowest: number; lookBack: number; best: number },
  ): { candidate: number; best: number } {
    const byte = pattern & 0xff;
    const forward = this.countRun(candidate + MIN_MATCH, byte) + MIN_MATCH;
    let first = candidate;
    while (first - 4 >= lowest && this.view.getUint32(first - 4, true) === pattern) first -= 4;
    while (first > lowest && this.source[first - 1] === byte) first--;
    const segment = candidate - first + forward;
    if (segment >= this.runLength && forward <= this.runLength) {
      return { candidate: candidate + forward - this.runLength, best };
    }
    if (lookBack > 0) return { candidate: first, best };
    const length = Math.min(segment, this.runLength);
    if (best < length) {
      if (at - first > MAX_DISTANCE) return { candidate: -1, best };
      this.match = first;
      this.start = at;
    }
    return { candidate: first - (this.chain[first & CHAIN_MASK] ?? 0), best: Math.max(best, length) };
  }
}

function hashOf(pattern: number): number {
  return Math.imul(pattern, -1_640_531_535) >>> (32 - HASH_BITS);
}

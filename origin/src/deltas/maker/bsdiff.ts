// The matching of bsdiff 4.3: C. Percival, "Naive Differences of Executable Code", 2003, http://www.daemonology.net/bsdiff/.
// Approximate matches: an exact match is extended to both sides as long as at least half of the bytes are equal. Where bytes differ within
// a match, their differences go to the diff stream, which is mostly zeros.
import type { PatchStreams } from '@sitecast/shared/delta';
import { suffixArray } from './suffix-array.ts';

/** A new match must have this many more equal bytes than the current one. */
const WORTH_A_JUMP_BYTES = 8;

/**
 * @param base at most some MiB: takes about 7 times its length in memory
 * @returns streams that make `target` from `base`
 */
export function bsdiff(base: Uint8Array, target: Uint8Array): PatchStreams {
  const search = new MatchSearch(base, target);
  const output = new StreamWriter(base, target);
  const { length } = target;
  let scan = 0;
  let matched = 0;
  let matchAt = 0;
  /** Base offset less target offset in the current match. */
  let shift = 0;
  while (scan < length) {
    /** How many of the bytes [scan, scored) the current match gets right. */
    let score = 0;
    scan += matched;
    for (let scored = scan; scan < length; scan++) {
      matched = search.longest(scan);
      matchAt = search.foundAt;
      for (; scored < scan + matched; scored++) {
        if (scored + shift < base.length && base[scored + shift] === target[scored]) score++;
      }
      if ((matched === score && matched !== 0) || matched > score + WORTH_A_JUMP_BYTES) break;
      if (scan + shift < base.length && base[scan + shift] === target[scan]) score--;
    }
    if (matched === score && scan !== length) continue;
    output.matchBegins(scan, matchAt);
    shift = matchAt - scan;
  }
  return output.finish();
}

/** Finds the longest exact match, anywhere in the base, of the target's bytes from a place on. */
class MatchSearch {
  /** Second result of `longest`: where in the base the match begins. */
  foundAt = 0;
  readonly #base: Uint8Array;
  readonly #target: Uint8Array;
  readonly #suffixes: Int32Array;
  /** By the first two bytes of a suffix: where such suffixes begin in the suffix array, and where the last of them ends. */
  readonly #starts: Int32Array;

  constructor(base: Uint8Array, target: Uint8Array) {
    this.#base = base;
    this.#target = target;
    this.#suffixes = suffixArray(base);
    this.#starts = pairStarts(base);
  }

  longest(at: number): number {
    const base = this.#base;
    const target = this.#target;
    const suffixes = this.#suffixes;
    if (at + 2 > target.length) return 0;
    const pair = ((target[at] ?? 0) << 8) | (target[at + 1] ?? 0);
    let low = this.#starts[pair] ?? 0;
    let high = (this.#starts[pair + 1] ?? 0) - 1;
    let lowMatched = 0;
    let highMatched = 0;
    let longest = 0;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const suffix = suffixes[middle] ?? 0;
      const matched = this.#equalBytes(suffix, at, Math.min(lowMatched, highMatched));
      if (matched > longest) {
        longest = matched;
        this.foundAt = suffix;
      }
      if (at + matched === target.length) break;
      // The end of the base is smaller than any byte.
      if ((base[suffix + matched] ?? -1) < (target[at + matched] ?? 0)) {
        low = middle + 1;
        lowMatched = matched;
      } else {
        high = middle - 1;
        highMatched = matched;
      }
    }
    return longest;
  }

  /** How many bytes of the base from `from` on equal those of the target from `at` on; at least `known` do. */
  #equalBytes(from: number, at: number, known: number): number {
    const base = this.#base;
    const target = this.#target;
    const most = Math.min(base.length - from, target.length - at);
    let equal = known;
    while (equal < most && base[from + equal] === target[at + equal]) equal++;
    return equal;
  }
}

function pairStarts(base: Uint8Array): Int32Array {
  const starts = new Int32Array(2 ** 16 + 1);
  const last = base.length - 1;
  for (let at = 0; at <= last; at++) {
    const pair = ((base[at] ?? 0) << 8) | (at < last ? (base[at + 1] ?? 0) : 0);
    starts[pair + 1] = (starts[pair + 1] ?? 0) + 1;
  }
  for (let pair = 0; pair < 2 ** 16; pair++) starts[pair + 1] = (starts[pair + 1] ?? 0) + (starts[pair] ?? 0);
  return starts;
}

/** Extends each match backwards and the one before forwards, and writes what lies between. */
class StreamWriter {
  readonly #base: Uint8Array;
  readonly #target: Uint8Array;
  readonly #control: number[] = [];
  readonly #diff: Uint8Array;
  readonly #extra: Uint8Array;
  #diffBytes = 0;
  #extraBytes = 0;
  /** Where the current match begins, in target and base. */
  #targetAt = 0;
  #baseAt = 0;

  constructor(base: Uint8Array, target: Uint8Array) {
    this.#base = base;
    this.#target = target;
    this.#diff = new Uint8Array(target.length);
    this.#extra = new Uint8Array(target.length);
  }

  /**
   * Ends the current match somewhere before `scan`. The next one begins there and is at `matchAt` in the base when the target is at
   * `scan`.
   */
  matchBegins(scan: number, matchAt: number): void {
    let forwards = this.#extendForwards(scan);
    const isLast = scan === this.#target.length;
    let backwards = isLast ? 0 : this.#extendBackwards(scan, matchAt);
    const overlap = this.#targetAt + forwards - (scan - backwards);
    if (overlap > 0) {
      const kept = this.#splitOverlap(overlap, forwards, scan - backwards, matchAt - backwards);
      forwards += kept - overlap;
      backwards -= kept;
    }
    const extra = scan - backwards - (this.#targetAt + forwards);
    this.#write(forwards, extra, isLast ? 0 : matchAt - backwards - (this.#baseAt + forwards));
    this.#targetAt = scan - backwards;
    this.#baseAt = matchAt - backwards;
  }

  finish(): PatchStreams {
    return {
      control: Int32Array.from(this.#control),
      diff: this.#diff.subarray(0, this.#diffBytes),
      extra: this.#extra.subarray(0, this.#extraBytes),
    };
  }

  #extendForwards(scan: number): number {
    const base = this.#base;
    const target = this.#target;
    const most = Math.min(scan - this.#targetAt, base.length - this.#baseAt);
    let equal = 0;
    let bestEqual = 0;
    let best = 0;
    for (let at = 0; at < most; ) {
      if (base[this.#baseAt + at] === target[this.#targetAt + at]) equal++;
      at++;
      if (equal * 2 - at > bestEqual * 2 - best) {
        bestEqual = equal;
        best = at;
      }
    }
    return best;
  }

  #extendBackwards(scan: number, matchAt: number): number {
    const most = Math.min(scan - this.#targetAt, matchAt);
    let equal = 0;
    let bestEqual = 0;
    let best = 0;
    for (let at = 1; at <= most; at++) {
      if (this.#base[matchAt - at] === this.#target[scan - at]) equal++;
      if (equal * 2 - at > bestEqual * 2 - best) {
        bestEqual = equal;
        best = at;
      }
    }
    return best;
  }

  /** Both matches claim `overlap` bytes. @returns how many of them the first one keeps, so that most are right */
  #splitOverlap(overlap: number, forwards: number, nextTarget: number, nextBase: number): number {
    const target = this.#target;
    const base = this.#base;
    const targetAt = this.#targetAt + forwards - overlap;
    const baseAt = this.#baseAt + forwards - overlap;
    let lead = 0;
    let bestLead = 0;
    let kept = 0;
    for (let at = 0; at < overlap; at++) {
      if (target[targetAt + at] === base[baseAt + at]) lead++;
      if (target[nextTarget + at] === base[nextBase + at]) lead--;
      if (lead > bestLead) {
        bestLead = lead;
        kept = at + 1;
      }
    }
    return kept;
  }

  #write(added: number, copied: number, step: number): void {
    for (let at = 0; at < added; at++) {
      this.#diff[this.#diffBytes + at] =
        (this.#target[this.#targetAt + at] ?? 0) - (this.#base[this.#baseAt + at] ?? 0);
    }
    this.#diffBytes += added;
    const from = this.#targetAt + added;
    this.#extra.set(this.#target.subarray(from, from + copied), this.#extraBytes);
    this.#extraBytes += copied;
    this.#control.push(added, copied, step);
  }
}

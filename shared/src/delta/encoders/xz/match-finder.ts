// Ported from XZ Utils 5.4.1, liblzma/lz/lz_encoder_mf.c and lz_encoder_hash.h, by Igor Pavlov and Lasse Collin, which they put into the public domain.

import { ownPages } from '../../pages.ts';
import { byteAt, equalLength, intAt } from './typed-arrays.ts';

/** Preset 6: matches this long are taken at once. */
export const NICE_LENGTH = 64;
export const MAX_MATCH_LENGTH = 273;
/** Preset 6: how many candidates are looked at. */
const DEPTH = 16 + NICE_LENGTH / 2;
const HASH_BYTES = 4;
const HASH_2_SIZE = 2 ** 10;
const HASH_3_SIZE = 2 ** 16;
const HASH_3 = HASH_2_SIZE;
const HASH_4 = HASH_2_SIZE + HASH_3_SIZE;
/** The longest dictionary: squashfs' largest block. */
export const MAX_DICTIONARY_BYTES = 2 ** 20;
const MAX_HASHES = HASH_4 + MAX_DICTIONARY_BYTES / 2;
/** Positions begin with the dictionary's length + 1, so that this is always too far away. */
const EMPTY = 0;

/** CRC-32's table: the original takes it for its hash as well. */
const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/**
 * liblzma's `bt4`: binary trees of positions by hashes of four bytes, and tables for two and three bytes. All of the input is there from
 * the beginning. Memory: 8 bytes for each byte of the dictionary, and 0.5 to 2.3 MiB for hashes.
 */
export class MatchFinder {
  bytes: Uint8Array = new Uint8Array();
  /** The next byte to look at. */
  readPos = 0;
  /** How many bytes were looked at but aren't encoded yet. */
  readAhead = 0;
  /** How many matches the last `find` found: rising lengths, and distances less one. */
  count = 0;
  readonly lengths = new Int32Array(MAX_MATCH_LENGTH + 1);
  readonly distances = new Int32Array(MAX_MATCH_LENGTH + 1);
  private readonly hash = integers(MAX_HASHES);
  private hashMask = 0;
  private readonly son = integers(2 * (MAX_DICTIONARY_BYTES + 1));
  private cyclicSize = 0;
  private cyclicPos = 0;
  // Of the position that is looked at.
  private hash2 = 0;
  private hash3 = 0;
  private hash4 = 0;

  /**
   * Forgets earlier input, and begins with these bytes. The memory is as long as the longest dictionary needs; a shorter one touches less
   * of it.
   */
  begin(bytes: Uint8Array, dictionaryBytes: number): void {
    this.bytes = bytes;
    this.readPos = 0;
    this.readAhead = 0;
    this.count = 0;
    this.cyclicPos = 0;
    this.cyclicSize = dictionaryBytes + 1;
    let mask = dictionaryBytes - 1;
    for (const shift of [1, 2, 4, 8]) mask |= mask >>> shift;
    this.hashMask = (mask >>> 1) | 0xffff;
    this.hash.fill(EMPTY, 0, HASH_4 + this.hashMask + 1);
  }

  get available(): number {
    return this.bytes.length - this.readPos;
  }

  /** Looks for matches at the next byte, and goes on behind it. @returns the length of the longest one, 0 without any */
  find(): number {
    const start = this.readPos;
    this.count = 0;
    this.search();
    this.readAhead++;
    if (this.count === 0) return 0;
    const longest = intAt(this.lengths, this.count - 1);
    if (longest !== NICE_LENGTH) return longest;
    const limit = Math.min(this.bytes.length - start, MAX_MATCH_LENGTH);
    const from = start - intAt(this.distances, this.count - 1) - 1;
    return equalLength(this.bytes, start, from, longest, limit);
  }

  /** Goes on by so many bytes, which can be found later. */
  skip(amount: number): void {
    this.readAhead += amount;
    for (let left = amount; left > 0; left--) {
      const limit = Math.min(this.available, NICE_LENGTH);
      if (limit < HASH_BYTES) {
        this.readPos++;
        continue;
      }
      const { readPos } = this;
      this.hashAt(readPos);
      this.insert(limit, this.replaceHashes(readPos + this.cyclicSize));
    }
  }

  private search(): void {
    const at = this.readPos;
    const limit = Math.min(this.available, NICE_LENGTH);
    if (limit < HASH_BYTES) {
      this.readPos++;
      return;
    }
    this.hashAt(at);
    const pos = at + this.cyclicSize;
    const delta2 = pos - intAt(this.hash, this.hash2);
    const delta3 = pos - intAt(this.hash, HASH_3 + this.hash3);
    const candidate = this.replaceHashes(pos);
    const best = this.shortMatches(at, delta2, delta3, limit);
    if (best === limit) this.insert(limit, candidate);
    else this.searchTree(limit, candidate, Math.max(best, 3));
  }

  private hashAt(at: number): void {
    const { bytes } = this;
    const two = intAt(CRC_TABLE, byteAt(bytes, at)) ^ byteAt(bytes, at + 1);
    const three = two ^ (byteAt(bytes, at + 2) << 8);
    this.hash2 = two & (HASH_2_SIZE - 1);
    this.hash3 = three & (HASH_3_SIZE - 1);
    this.hash4 = (three ^ (intAt(CRC_TABLE, byteAt(bytes, at + 3)) << 5)) & this.hashMask;
  }

  /** Remembers this position. @returns the last one with the same hash of four bytes */
  private replaceHashes(pos: number): number {
    const { hash } = this;
    const candidate = intAt(hash, HASH_4 + this.hash4);
    hash[this.hash2] = pos;
    hash[HASH_3 + this.hash3] = pos;
    hash[HASH_4 + this.hash4] = pos;
    return candidate;
  }

  /** The nearest matches of two and three bytes. @returns the longest length, 1 without any */
  private shortMatches(at: number, delta2: number, delta3: number, limit: number): number {
    const { bytes, cyclicSize } = this;
    let delta = delta2;
    let best = 1;
    if (delta2 < cyclicSize && bytes[at - delta2] === bytes[at]) {
      best = 2;
      this.lengths[0] = 2;
      this.distances[0] = delta2 - 1;
      this.count = 1;
    }
    if (delta2 !== delta3 && delta3 < cyclicSize && bytes[at - delta3] === bytes[at]) {
      best = 3;
      this.distances[this.count++] = delta3 - 1;
      delta = delta3;
    }
    if (this.count === 0) return best;
    best = equalLength(bytes, at - delta, at, best, limit);
    this.lengths[this.count - 1] = best;
    return best;
  }

  /** Puts this position at the root of its tree, and notes all matches longer than `longest` on the way down. */
  private searchTree(limit: number, first: number, longest: number): void {
    const { bytes, son, cyclicSize, cyclicPos, readPos: at } = this;
    const pos = at + cyclicSize;
    let candidate = first;
    let best = longest;
    let [larger, smaller] = [2 * cyclicPos + 1, 2 * cyclicPos];
    let largerLength = 0;
    let smallerLength = 0;
    for (let depth = DEPTH; ; depth--) {
      const delta = pos - candidate;
      if (depth === 0 || delta >= cyclicSize) {
        son[larger] = EMPTY;
        son[smaller] = EMPTY;
        break;
      }
      const pair = 2 * (cyclicPos - delta + (delta > cyclicPos ? cyclicSize : 0));
      const length = equalLength(bytes, at - delta, at, Math.min(largerLength, smallerLength), limit);
      if (length > best) {
        best = length;
        this.lengths[this.count] = length;
        this.distances[this.count++] = delta - 1;
      }
      if (length === limit) {
        son[smaller] = intAt(son, pair);
        son[larger] = intAt(son, pair + 1);
        break;
      }
      if (byteAt(bytes, at - delta + length) < byteAt(bytes, at + length)) {
        son[smaller] = candidate;
        smaller = pair + 1;
        candidate = intAt(son, smaller);
        smallerLength = length;
      } else {
        son[larger] = candidate;
        larger = pair;
        candidate = intAt(son, larger);
        largerLength = length;
      }
    }
    this.movePos();
  }

  /** Puts this position at the root of its tree. */
  private insert(limit: number, candidate: number): void {
    // No match can be longer than MAX_MATCH_LENGTH, so none is noted.
    this.searchTree(limit, candidate, MAX_MATCH_LENGTH);
  }

  private movePos(): void {
    this.readPos++;
    if (++this.cyclicPos === this.cyclicSize) this.cyclicPos = 0;
  }
}

function integers(count: number): Int32Array {
  const bytes = ownPages(count * Int32Array.BYTES_PER_ELEMENT);
  return new Int32Array(bytes.buffer, bytes.byteOffset, count);
}

import { ByteWriter } from '../bytes.ts';

/** Random numbers that are the same for the same seed (xorshift32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = Math.imul(seed + 1, 0x9e3779b1) | 1;
  }

  /** A whole number from 0 to below `end`. */
  below(end: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % Math.max(1, Math.floor(end));
  }

  /** True once in this many times. */
  oneIn(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(values: readonly [T, ...T[]]): T {
    return values[this.below(values.length)] ?? values[0];
  }
}

/** A part of a recipe or patch: a number, written as a varint, or bytes as they are. */
export type Token = number | Uint8Array;

export function write(tokens: readonly Token[]): Buffer {
  const writer = new ByteWriter();
  for (const token of tokens) {
    if (typeof token === 'number') writer.uint(token);
    else writer.add(token);
  }
  return writer.finish();
}

export function zigzag(value: number): number {
  return value < 0 ? -value * 2 - 1 : value * 2;
}

/** Numbers at and next to common bounds. */
const EDGES: readonly [number, ...number[]] = [
  0,
  1,
  2,
  127,
  128,
  255,
  65_535,
  65_536,
  2 ** 18,
  2 ** 20,
  2 ** 20 + 1,
  2 ** 22,
  2 ** 22 + 1,
  2 ** 23,
  2 ** 23 + 1,
  2 ** 24,
  2 ** 30,
  2 ** 31,
  2 ** 32,
  2 ** 44,
  2 ** 52,
  Number.MAX_SAFE_INTEGER,
];

/** Replaces a number: by one near it, at a bound, or any. */
export function lie(random: Random, value: number): number {
  switch (random.below(4)) {
    case 0:
      return random.pick(EDGES);
    case 1:
      return Math.min(Number.MAX_SAFE_INTEGER, Math.max(0, value + random.below(9) - 4));
    case 2:
      return random.below(2 ** random.below(32) + 1);
    default:
      return Math.min(Number.MAX_SAFE_INTEGER, Math.floor(value / 2) + (random.oneIn(2) ? value : 0));
  }
}

/** Changes one to four numbers or bytes, and keeps the format. */
export function mutateTokens(random: Random, tokens: readonly Token[]): Token[] {
  const changed = [...tokens];
  for (let left = 1 + random.below(4); left > 0; left -= 1) {
    const at = random.below(changed.length);
    const token = changed[at] ?? 0;
    const way = random.below(12);
    if (way === 0) changed.splice(at, 1);
    else if (way === 1) changed.splice(at, 0, token);
    else changed[at] = typeof token === 'number' ? lie(random, token) : mutateBytes(random, token);
    if (changed.length === 0) return [0];
  }
  return changed;
}

/** Changes bytes without regard to their meaning: flips, overwrites, cuts off, leaves out, doubles. */
export function mutateBytes(random: Random, bytes: Uint8Array): Buffer {
  let changed = Buffer.from(bytes);
  for (let left = 1 + random.below(3); left > 0; left -= 1) {
    if (changed.length === 0) return Buffer.of(random.below(256));
    const at = random.below(changed.length);
    const some = 1 + random.below(16);
    switch (random.below(6)) {
      case 0:
        changed[at] = (changed[at] ?? 0) ^ (1 << random.below(8));
        break;
      case 1:
        changed[at] = random.below(256);
        break;
      case 2:
        changed = changed.subarray(0, at);
        break;
      case 3:
        changed = Buffer.concat([changed.subarray(0, at), changed.subarray(at + some)]);
        break;
      case 4:
        changed = Buffer.concat([changed.subarray(0, at + some), changed.subarray(at)]);
        break;
      default:
        changed.fill(random.below(256), at, Math.min(at + some, changed.length));
    }
  }
  return changed;
}

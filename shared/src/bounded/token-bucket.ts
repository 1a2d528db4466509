import { lruCache, type LruCache } from './lru-cache.ts';

/** How many things go through in a second on average, and how many at once. */
export interface Rate {
  perS: number;
  burst: number;
}

/** Lets so many things through in a second on average, and a burst of them at once. */
export class TokenBucket {
  readonly #perS: number;
  readonly #burst: number;
  readonly #now: () => number;
  #tokens: number;
  #atMs: number;

  constructor({ perS, burst, now }: Rate & { now: () => number }) {
    this.#perS = perS;
    this.#burst = burst;
    this.#now = now;
    this.#tokens = burst;
    this.#atMs = now();
  }

  /** What it would let through now. */
  get tokens(): number {
    const nowMs = this.#now();
    // A clock that is set back must not stop it.
    const passedMs = Math.max(0, nowMs - this.#atMs);
    this.#tokens = Math.min(this.#burst, this.#tokens + (passedMs / 1000) * this.#perS);
    this.#atMs = nowMs;
    return this.#tokens;
  }

  /** All of so many, or none. */
  take(count = 1): boolean {
    if (this.tokens < count) return false;
    this.#tokens -= count;
    return true;
  }

  /** Seconds until so many are let through, a whole burst at the most; 0 where they are now. */
  waitS(count: number): number {
    return Math.max(0, (Math.min(count, this.#burst) - this.tokens) / this.#perS);
  }
}

const MAX_BUCKETS = 20_000;

/** A bucket each for so many keys; the least recently used are forgotten. */
export class TokenBuckets {
  readonly #buckets: LruCache<string, TokenBucket>;
  readonly #options: Rate & { now: () => number };

  constructor({ maxKeys = MAX_BUCKETS, ...options }: Rate & { now: () => number; maxKeys?: number }) {
    this.#buckets = lruCache({ max: maxKeys });
    this.#options = options;
  }

  of(key: string): TokenBucket {
    const known = this.#buckets.get(key);
    if (known) return known;
    const bucket = new TokenBucket(this.#options);
    this.#buckets.set(key, bucket);
    return bucket;
  }

  take(key: string, count = 1): boolean {
    return this.of(key).take(count);
  }
}

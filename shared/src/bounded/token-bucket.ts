import { lruCache, type LruCache } from './lru-cache.ts';

/** How many events pass per second on average, and how many at once. */
export interface Rate {
  perS: number;
  burst: number;
}

/** Lets events pass at an average rate, and a burst of them at once. */
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

  /** How many events may pass now. */
  get tokens(): number {
    const nowMs = this.#now();
    // A clock that was set back must not stop the bucket.
    const passedMs = Math.max(0, nowMs - this.#atMs);
    this.#tokens = Math.min(this.#burst, this.#tokens + (passedMs / 1000) * this.#perS);
    this.#atMs = nowMs;
    return this.#tokens;
  }

  /** Takes this many tokens, or none. @returns whether they were there */
  take(count = 1): boolean {
    if (this.tokens < count) return false;
    this.#tokens -= count;
    return true;
  }

  /** Seconds until this many (at most a whole burst) may pass; 0: they may now. */
  waitS(count: number): number {
    return Math.max(0, (Math.min(count, this.#burst) - this.tokens) / this.#perS);
  }
}

const MAX_BUCKETS = 20_000;

/** One bucket for each key. The least recently used ones are forgotten. */
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

import { LRUCache } from 'lru-cache';

/** Lets so many things through in a second on average, and a burst of them at once. */
export class TokenBucket {
  readonly #perS: number;
  readonly #burst: number;
  readonly #now: () => number;
  #tokens: number;
  #atMs: number;

  constructor({ perS, burst, now }: { perS: number; burst: number; now: () => number }) {
    this.#perS = perS;
    this.#burst = burst;
    this.#now = now;
    this.#tokens = burst;
    this.#atMs = now();
  }

  /** All of so many, or none. */
  take(count = 1): boolean {
    const nowMs = this.#now();
    // A clock that is set back must not stop it.
    const passedMs = Math.max(0, nowMs - this.#atMs);
    this.#tokens = Math.min(this.#burst, this.#tokens + (passedMs / 1000) * this.#perS);
    this.#atMs = nowMs;
    if (this.#tokens < count) return false;
    this.#tokens -= count;
    return true;
  }
}

const MAX_BUCKETS = 20_000;

/** A bucket each for so many keys; the least recently used are forgotten. */
export class TokenBuckets {
  readonly #buckets = new LRUCache<string, TokenBucket>({ max: MAX_BUCKETS });
  readonly #options: { perS: number; burst: number; now: () => number };

  constructor(options: { perS: number; burst: number; now: () => number }) {
    this.#options = options;
  }

  take(key: string, count = 1): boolean {
    let bucket = this.#buckets.get(key);
    if (!bucket) {
      bucket = new TokenBucket(this.#options);
      this.#buckets.set(key, bucket);
    }
    return bucket.take(count);
  }
}

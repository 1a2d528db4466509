import { LRUCache } from 'lru-cache';

/** What `lruCache` takes of LRUCache's options. */
interface Options {
  /** Entries at most; the least recently used goes first. */
  max: number;
  ttl?: number;
  /** The clock that `ttl` is measured by. */
  perf?: { now: () => number };
}

/**
 * An LRU cache whose memory grows with what it holds. LRUCache's own `max` allocates the memory of all entries at once: 9 ms and
 * 7 MB for 200,000, at each start of a daemon and in each test that opens one.
 */
export function lruCache<K extends {}, V extends {}>({ max, ...options }: Options): LRUCache<K, V> {
  return new LRUCache<K, V>({ ...options, maxSize: max, sizeCalculation: () => 1 });
}

import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { lruCache } from './lru-cache.ts';

it('holds so many entries, and forgets the least recently used', () => {
  const cache = lruCache<string, number>({ max: 3 });
  for (const [at, key] of ['a', 'b', 'c'].entries()) cache.set(key, at);
  cache.get('a');
  cache.set('d', 3);
  expect([...cache.keys()].toSorted()).toEqual(['a', 'c', 'd']);
  cache.set('d', 4);
  expect(cache.size).toBe(3);
});

it('forgets what is older than it may be', async () => {
  let nowMs = 1000;
  const cache = lruCache<string, number>({ max: 3, ttl: 100, perf: { now: () => nowMs } });
  cache.set('a', 1);
  nowMs += 99;
  expect(cache.get('a')).toBe(1);
  nowMs += 2;
  // It looks at the clock once in a millisecond.
  await sleep(5);
  expect(cache.get('a')).toBeUndefined();
});

it('takes no memory for entries that it does not hold', () => {
  // As many as no array has.
  expect(lruCache<string, number>({ max: Number.MAX_SAFE_INTEGER }).size).toBe(0);
});

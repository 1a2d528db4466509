import { expect, it } from 'vitest';
import { lruCache } from './lru-cache.ts';

it('holds a bounded number of entries, and forgets the least recently used', () => {
  const cache = lruCache<string, number>({ max: 3 });
  for (const [at, key] of ['a', 'b', 'c'].entries()) cache.set(key, at);
  cache.get('a');
  cache.set('d', 3);
  expect([...cache.keys()].toSorted()).toEqual(['a', 'c', 'd']);
  cache.set('d', 4);
  expect(cache.size).toBe(3);
});

it('holds a bounded number of bytes, and no longer entry; each entry counts as at least one byte', () => {
  const cache = lruCache<string, string>({ maxBytes: 5, bytesOf: value => value.length });
  cache.set('a', 'one').set('b', '').set('c', 'n');
  expect([...cache.values()]).toEqual(['n', '', 'one']);
  cache.get('a');
  cache.set('d', 'n');
  expect([...cache.keys()]).toEqual(['d', 'a', 'c']);
  cache.set('e', 'longer');
  expect(cache.has('e')).toBe(false);
  const none = lruCache<string, string>({ maxBytes: 0, bytesOf: value => value.length });
  expect(none.set('a', 'two').size).toBe(0);
});

it('calls back for each entry that it forgets', () => {
  const forgotten: string[] = [];
  const cache = lruCache<string, number>({
    max: 2,
    dispose: (value, key) => forgotten.push(`${key}${value}`),
  });
  cache.set('a', 1).set('b', 1).set('a', 2).set('c', 1);
  cache.delete('a');
  expect(forgotten).toEqual(['a1', 'b1', 'a2']);
});

it('forgets an entry after its time to live', () => {
  let nowMs = 0;
  const cache = lruCache<string, number>({ max: 3, ttl: 100, now: () => nowMs });
  cache.set('a', 1);
  nowMs += 99;
  expect(cache.get('a')).toBe(1);
  nowMs += 2;
  expect(cache.get('a')).toBeUndefined();
});

it('allocates no memory for entries that it does not hold', () => {
  // No array can be that long.
  expect(lruCache<string, number>({ max: Number.MAX_SAFE_INTEGER }).size).toBe(0);
});

import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { chunkIdOf, chunkIdToHex } from '../chunk-id.ts';
import type { ChunkSizes } from '../chunk-index.ts';
import { noise } from '../fixtures.ts';
import { MAX_CHUNK_BYTES, MIN_CHUNK_SIZE_BYTES } from '../limits.ts';
import { ChunkCutter, checkChunkSizes, DEFAULT_CHUNK_SIZES } from './fastcdc.ts';

const SMALL = { minBytes: 4096, avgBytes: 8192, maxBytes: 32768 };

/**
 * The ends of all chunks of an image that arrives in blocks of these lengths (the rest in one block). The end of the last chunk is
 * included.
 */
function cut(image: Uint8Array, sizes: ChunkSizes, blockLengths: readonly number[] = []): number[] {
  const cutter = new ChunkCutter(sizes);
  const ends: number[] = [];
  let start = 0;
  for (const lengthBytes of [...blockLengths, image.length]) {
    const block = image.subarray(start, start + lengthBytes);
    for (let at = 0; ; ) {
      at = cutter.next(block, at, block.length);
      if (at === -1) break;
      ends.push(start + at);
    }
    start += block.length;
  }
  if (cutter.filledBytes > 0) ends.push(image.length);
  return ends;
}

/** The algorithm as the papers describe it, over a whole image at once, with 64-bit arithmetic: slow and simple. */
function cutPlainly(image: Uint8Array, { minBytes, avgBytes, maxBytes }: ChunkSizes): number[] {
  const gear = Array.from({ length: 256 }, (_, byte) =>
    BigInt(
      createHash('sha256')
        .update('sitecast/fastcdc/gear/1')
        .update(Uint8Array.of(byte))
        .digest()
        .readUInt32LE(0),
    ),
  );
  const bits = Math.log2(avgBytes);
  const ends: number[] = [];
  let start = 0;
  while (start < image.length) {
    let hash = 0n;
    let end = Math.min(start + maxBytes, image.length);
    for (let at = start + minBytes; at < end; at++) {
      hash = (hash * 2n + (gear[image[at] ?? 0] ?? 0n)) % 2n ** 32n;
      const wanted = at - start < avgBytes ? bits + 2 : bits - 2;
      if (hash >> BigInt(32 - wanted) === 0n) end = at + 1;
    }
    ends.push(end);
    start = end;
  }
  return ends;
}

function idsOf(image: Uint8Array, ends: readonly number[]): string[] {
  return ends.map((end, at) => chunkIdToHex(chunkIdOf(image.subarray(ends[at - 1] ?? 0, end))));
}

/** A hash over the cut points. */
function fingerprint(ends: readonly number[]): string {
  return createHash('sha256').update(ends.join()).digest('hex').slice(0, 16);
}

it.each([
  ['noise at the default sizes', noise(4 * 2 ** 20, 'vector'), DEFAULT_CHUNK_SIZES, 59, '1d51e5348316855a'],
  ['noise at 4:8:32 KiB', noise(2 ** 20, 'vector'), SMALL, 109, 'a40595852104c6ee'],
  [
    'noise at 64:256:1024 KiB',
    noise(8 * 2 ** 20, 'vector'),
    { minBytes: 65536, avgBytes: 262144, maxBytes: MAX_CHUNK_BYTES },
    29,
    'cedb3b9dcf2bff13',
  ],
  [
    'text',
    Buffer.from('one copy of an update crosses the link. '.repeat(30_000)),
    DEFAULT_CHUNK_SIZES,
    5,
    'c0883b0f51c1432e',
  ],
  ['zeros', Buffer.alloc(2 ** 20), DEFAULT_CHUNK_SIZES, 4, '3a0b520b39dd9e32'],
])('never changes the cut points of %s', (_what, image, sizes, count, expected) => {
  const ends = cut(image, sizes);
  expect([ends.length, fingerprint(ends)]).toEqual([count, expected]);
});

it('cuts where a plain implementation of the paper does', () => {
  for (const image of [
    noise(300_000, 1),
    Buffer.concat([noise(50_000, 2), Buffer.alloc(90_000), noise(1000, 3)]),
  ]) {
    expect(cut(image, SMALL)).toEqual(cutPlainly(image, SMALL));
  }
});

it('cuts at the same points whatever the block boundaries', () => {
  const image = Buffer.concat([noise(200_000, 4), Buffer.alloc(100_000, 7), noise(150_000, 5)]);
  const whole = cut(image, SMALL);
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.nat(40), fc.nat(50_000)), { maxLength: 60 }), lengths => {
      expect(cut(image, SMALL, lengths)).toEqual(whole);
    }),
    { numRuns: 60 },
  );
  expect(
    cut(
      image,
      SMALL,
      Array.from({ length: 449_000 }, () => 1),
    ),
  ).toEqual(whole);
});

it('keeps every chunk but the last between minimum and maximum', () => {
  fc.assert(
    fc.property(fc.nat(10_000), fc.nat(200_000), fc.boolean(), (seed, lengthBytes, isFlat) => {
      const image = isFlat ? Buffer.alloc(lengthBytes, seed) : noise(lengthBytes, seed);
      const ends = cut(image, SMALL);
      const lengths = ends.map((end, at) => end - (ends[at - 1] ?? 0));
      expect(lengths.reduce((sum, one) => sum + one, 0)).toBe(lengthBytes);
      expect(lengths.slice(0, -1).every(one => one > SMALL.minBytes && one <= SMALL.maxBytes)).toBe(true);
      expect(lengths.every(one => one > 0 && one <= SMALL.maxBytes)).toBe(true);
    }),
  );
});

it('makes chunks of about the average size of random bytes', () => {
  const image = noise(12 * 2 ** 20, 6);
  const mean = image.length / cut(image, DEFAULT_CHUNK_SIZES).length;
  expect(mean / DEFAULT_CHUNK_SIZES.avgBytes).toBeGreaterThan(0.9);
  expect(mean / DEFAULT_CHUNK_SIZES.avgBytes).toBeLessThan(1.3);
});

it('never cuts within a run of one byte, so that empty space gives few, equal chunks', () => {
  for (let byte = 0; byte < 256; byte++) {
    expect(cut(Buffer.alloc(SMALL.maxBytes * 2, byte), SMALL)).toEqual([SMALL.maxBytes, SMALL.maxBytes * 2]);
  }
});

it('changes few chunks when bytes are inserted, deleted or replaced', () => {
  const image = noise(3 * 2 ** 20, 7);
  const before = new Set(idsOf(image, cut(image, DEFAULT_CHUNK_SIZES)));
  for (const place of [0, 1_000_003, 2_500_000]) {
    for (const edited of [
      Buffer.concat([image.subarray(0, place), Buffer.from('inserted'), image.subarray(place)]),
      Buffer.concat([image.subarray(0, place), image.subarray(place + 5)]),
      Buffer.concat([image.subarray(0, place), noise(64, 8), image.subarray(place + 64)]),
    ]) {
      const changed = idsOf(edited, cut(edited, DEFAULT_CHUNK_SIZES)).filter(id => !before.has(id));
      expect(changed.length).toBeGreaterThan(0);
      expect(changed.length).toBeLessThanOrEqual(4);
    }
  }
});

it.each([
  ['a minimum below the limit', MIN_CHUNK_SIZE_BYTES - 1, 65536, 262144],
  ['a maximum over the limit', 16384, 65536, MAX_CHUNK_BYTES + 1],
  ['an average that is no power of two', 16384, 65000, 262144],
  ['a minimum over the average', 65537, 65536, 262144],
  ['a maximum below the average', 16384, 65536, 65535],
  ['a fraction', 16384.5, 65536, 262144],
  ['no number', Number.NaN, 65536, 262144],
])('refuses %s', (_what, minBytes, avgBytes, maxBytes) => {
  expect(() => new ChunkCutter({ minBytes, avgBytes, maxBytes })).toThrow(
    expect.objectContaining({ code: 'SITECAST_CHUNK_SIZES' }),
  );
});

it('accepts sizes at their limits', () => {
  for (const sizes of [
    { minBytes: MIN_CHUNK_SIZE_BYTES, avgBytes: MIN_CHUNK_SIZE_BYTES, maxBytes: MIN_CHUNK_SIZE_BYTES },
    { minBytes: MAX_CHUNK_BYTES, avgBytes: MAX_CHUNK_BYTES, maxBytes: MAX_CHUNK_BYTES },
  ]) {
    expect(checkChunkSizes(sizes)).toEqual(sizes);
    const image = noise(sizes.maxBytes * 3 + 1, 9);
    expect(cut(image, sizes)).toEqual([1, 2, 3].map(n => n * sizes.maxBytes).concat(image.length));
  }
});

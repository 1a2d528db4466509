import { type ChunkIndex, ChunkIndexBuilder, chunkIdOf } from '@sitecast/shared/content';
import { expect, it } from 'vitest';
import { baseLengthOf, baseRange, cutStretches, missingChunks } from './windows.ts';

const KIB = 1024;
const SIZES = { minBytes: 16 * KIB, avgBytes: 64 * KIB, maxBytes: 256 * KIB };

/** An index of chunks of 64 KiB, each given by a name. */
function indexOf(...names: string[]): ChunkIndex {
  const builder = new ChunkIndexBuilder(SIZES);
  for (const [at, name] of names.entries()) builder.add(chunkIdOf(Buffer.from(name)), (at + 1) * 64 * KIB);
  return builder.finish();
}

it('does not count a chunk as missing that the base holds anywhere', () => {
  expect(missingChunks(indexOf('a', 'b', 'c'), indexOf('c', 'new', 'a', 'a'))).toEqual([
    false,
    true,
    false,
    false,
  ]);
});

it('does not count runs of zeros as missing, as every device can make them', () => {
  const builder = new ChunkIndexBuilder(SIZES);
  builder.add(chunkIdOf(new Uint8Array(256 * KIB)), 256 * KIB);
  expect(missingChunks(indexOf('a'), builder.finish())).toEqual([false]);
});

it('cuts runs of missing chunks at the largest window', () => {
  const target = indexOf('1', '2', '3', 'x', '4');
  const sizes = { maxTargetBytes: 128 * KIB, maxBaseBytes: 256 * KIB, maxGapBytes: 0 };
  expect(cutStretches(target, [true, true, true, false, true], sizes)).toEqual([
    { firstChunk: 0, chunkCount: 2, targetOffset: 0, targetLength: 128 * KIB },
    { firstChunk: 2, chunkCount: 1, targetOffset: 128 * KIB, targetLength: 64 * KIB },
    { firstChunk: 4, chunkCount: 1, targetOffset: 256 * KIB, targetLength: 64 * KIB },
  ]);
});

it('fills short gaps', () => {
  const sizes = { maxTargetBytes: 512 * KIB, maxBaseBytes: 256 * KIB, maxGapBytes: 64 * KIB };
  const stretches = cutStretches(
    indexOf('1', 'x', '2', 'y', 'z', '3'),
    [true, false, true, false, false, true],
    sizes,
  );
  expect(stretches.map(({ firstChunk, chunkCount }) => [firstChunk, chunkCount])).toEqual([
    [0, 3],
    [5, 1],
  ]);
});

it('places the base range where most hits are, and inside of the base', () => {
  const range = baseRange([10 * KIB, 5000 * KIB, 5100 * KIB, 5200 * KIB], 0, 1024 * KIB, 8192 * KIB);
  expect(range).toEqual({ baseOffset: (5100 - 512) * KIB, baseLength: 1024 * KIB });
  expect(baseRange([8190 * KIB], 0, 1024 * KIB, 8192 * KIB).baseOffset).toBe(7168 * KIB);
  expect(baseRange([], 100 * KIB, 1024 * KIB, 8192 * KIB).baseOffset).toBe(0);
  expect(baseRange([], 0, 1024 * KIB, 100)).toEqual({ baseOffset: 0, baseLength: 100 });
});

it('gives a base range a whole number of bytes, whatever the estimated length of an opened target', () => {
  expect(baseLengthOf(500_000.3, 8 * 1024 * KIB)).toBe(2_000_002);
  expect(baseLengthOf(1, 8 * 1024 * KIB)).toBe(1024 * KIB);
  expect(baseLengthOf(1e9, 8 * 1024 * KIB)).toBe(8 * 1024 * KIB);
});

import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ChunkIndex, ChunkIndexBuilder, FRAME_OVERHEAD_BYTES, sha256 } from '../content/index.ts';
import { planUpdate } from './plan.ts';
import { zeroChunks } from './zero-chunks.ts';

const MAX = 64;
const sizes = { minBytes: 1, avgBytes: MAX, maxBytes: MAX };

/** Content number n has `1 + n % 60` bytes. Number 0 and negative numbers are zeros. */
function plainOf(content: number): Buffer {
  return content <= 0 ? Buffer.alloc(1 - content) : Buffer.alloc(1 + (content % 60), content);
}

function indexOf(contents: readonly number[]): ChunkIndex {
  const builder = new ChunkIndexBuilder(sizes);
  let end = 0;
  for (const content of contents) {
    const plain = plainOf(content);
    end += plain.length;
    builder.add(sha256(plain), end);
  }
  return builder.finish();
}

const contents = fc.array(fc.integer({ min: -3, max: 12 }), { minLength: 1, maxLength: 40 });
const cases = contents.chain(target =>
  fc.record({
    target: fc.constant(target),
    inPlace: fc.array(fc.boolean(), { minLength: target.length, maxLength: target.length }),
    booted: fc.option(contents),
    other: fc.option(contents),
    cuts: fc.uniqueArray(fc.integer({ min: 0, max: target.length }), { maxLength: 8 }),
    patchLengths: fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 8, maxLength: 8 }),
  }),
);

type Case = typeof cases extends fc.Arbitrary<infer T> ? T : never;

/** The expected way of a chunk, computed by the plainest possible code. */
function wayExpected(
  input: Case,
  { at, content, isKnown, isUsed }: { at: number; content: number; isKnown: boolean; isUsed: boolean },
): string {
  const isPlaced = input.target.some((one, place) => one === content && input.inPlace[place]);
  if (input.inPlace[at]) return 'inPlace';
  if (content <= 0) return 'zero';
  if (isPlaced) return 'other';
  if (input.booted?.includes(content)) return 'booted';
  if (input.other?.includes(content)) return 'other';
  if (isKnown) return 'repeat';
  return isUsed ? 'window' : 'fetch';
}

function planned({ target, inPlace, booted, other, cuts, patchLengths }: Case) {
  const index = indexOf(target);
  const ends = cuts.toSorted((one, two) => one - two);
  const windows = ends.slice(1).flatMap((end, at) => {
    const firstChunk = ends[at] ?? 0;
    const frameBytes = index.endOf(end - 1) - index.startOf(firstChunk);
    return at % 2 === 0
      ? [{ firstChunk, chunkCount: end - firstChunk, patchLength: patchLengths[at] ?? 1, frameBytes }]
      : [];
  });
  const input = {
    target: index,
    isInPlace: (at: number) => inPlace[at] ?? false,
    booted: booted ? indexOf(booted) : undefined,
    other: other ? indexOf(other) : undefined,
  };
  return { index, windows, plan: planUpdate({ ...input, windows }), chunksOnly: planUpdate(input) };
}

describe('a plan', () => {
  it('gives each chunk the cheapest way, and only ways that exist', () => {
    fc.assert(
      fc.property(cases, input => {
        const { index, windows, plan } = planned(input);
        const seen = new Set<number>();
        const usedChunks = new Set(
          plan.windows.flatMap(at => {
            const { firstChunk = 0, chunkCount = 0 } = windows[at] ?? {};
            return Array.from({ length: chunkCount }, (_, next) => firstChunk + next);
          }),
        );
        for (const [at, content] of input.target.entries()) {
          const way = plan.wayOf(at);
          const isKnown = seen.has(content);
          expect(way).toBe(wayExpected(input, { at, content, isKnown, isUsed: usedChunks.has(at) }));
          if (!input.inPlace[at]) seen.add(content);
        }
        const { inPlace, zero, booted, other, patched, fetched, image } = plan.bytes;
        expect(inPlace + zero + booted + other + patched + fetched).toBe(image);
        expect(image).toBe(index.lengthBytes);
      }),
      { numRuns: 400 },
    );
  });

  it('uses a window only where it is cheaper, so a recipe never costs more than chunks alone', () => {
    fc.assert(
      fc.property(cases, input => {
        const { windows, plan, chunksOnly } = planned(input);
        expect(plan.bytes.patches).toBe(
          plan.windows.reduce((sum, at) => sum + (windows[at]?.patchLength ?? 0), 0),
        );
        expect(plan.bytes.patches + plan.bytes.frames).toBeLessThanOrEqual(chunksOnly.bytes.frames);
        const saved = chunksOnly.bytes.frames - plan.bytes.patches - plan.bytes.frames;
        expect(saved > 0).toBe(plan.windows.length > 0);
      }),
      { numRuns: 400 },
    );
  });

  it('uses no window that claims a frame length which its chunks cannot have', () => {
    const target = indexOf([10, 20]);
    const plan = (patchLength: number) =>
      planUpdate({
        target,
        isInPlace: () => false,
        windows: [{ firstChunk: 0, chunkCount: 2, patchLength, frameBytes: 1_000_000 }],
      });
    const longest = target.lengthBytes + 2 * FRAME_OVERHEAD_BYTES;
    expect(plan(longest - 1).windows).toEqual([0]);
    expect(plan(longest).windows).toEqual([]);
  });

  it('estimates frames by the lengths that the recipe gives for windows and for the rest', () => {
    const target = indexOf([1, 2, 3, 4]);
    const windows = [{ firstChunk: 0, chunkCount: 2, patchLength: 1000, frameBytes: 3 }];
    const isInPlace = (at: number) => at === 2;
    const all = planUpdate({ target, isInPlace: () => false, windows, restFrameBytes: 4 });
    expect(all.bytes).toMatchObject({ patched: 0, frames: 7 });
    const half = planUpdate({ target, isInPlace, windows, restFrameBytes: 4 });
    // The rest is the chunks of 4 and 5 bytes. The second one is missing.
    expect(half.bytes.frames).toBe(Math.ceil(3 + (4 * 5) / 9));
  });
});

it('recognizes chunks of zeros of any length by their ids', () => {
  const lengths = [0, -1, -2, -63, 5, 0, -62];
  expect([...zeroChunks(indexOf(lengths))]).toEqual([1, 1, 1, 1, 0, 1, 1]);
});

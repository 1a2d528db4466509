import { expect, it } from 'vitest';
import { bitsOf, type Need, sitesCost } from './site-costs.ts';

const target = { chunkCount: 100, frameBytesOf: () => 10, indexBytes: 7, imageBytes: 900 };
const window = {
  firstChunk: 0,
  chunkCount: 10,
  baseOffset: 0,
  baseLength: 100,
  frameBytes: 100,
  encoderBits: 0,
};
const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at);

const byChunks = (from: number, to: number): Need => ({
  bytes: 7 + 10 * (to - from),
  isEstimate: true,
  chunks: bitsOf(100, numbers(from, to)),
  delta: undefined,
  windows: bitsOf(0, []),
});

/** A need with a delta of two patches of 20 bytes, the first `usable` of which the devices can apply; all of them need chunks 50 to 60. */
function byDelta(delta: Need['delta'], usable: number, chunks: readonly number[] = []): Need {
  const bytes = 5 + 3 + 20 * usable + 10 * (10 + chunks.length);
  return {
    bytes,
    isEstimate: false,
    chunks: bitsOf(100, [...numbers(50, 60), ...chunks]),
    delta,
    windows: bitsOf(2, numbers(0, usable)),
  };
}
const newDelta = (): NonNullable<Need['delta']> => ({
  recipeBytes: 5,
  patchIndexBytes: 3,
  windows: [
    { ...window, patchLength: 20 },
    { ...window, firstChunk: 10, patchLength: 20 },
  ],
});

const of = (...sites: (Need | 'image')[][]) =>
  sitesCost(new Map(sites.map((needs, at) => [`site-${at}`, new Set(needs)])), target);

it('counts each chunk, index, patch and recipe once a site, whichever of its devices need it', () => {
  expect(of([byChunks(0, 20), byChunks(10, 30)])).toMatchObject({ mostBytes: 7 + 300, isEstimate: true });
  const delta = newDelta();
  // Devices that lack an encoder fetch chunks for the second window.
  const two = [byDelta(delta, 2), byDelta(delta, 1, numbers(10, 20))];
  expect(of(two)).toMatchObject({ mostBytes: 5 + 3 + 40 + 100 + 100 });
  // Two deltas that leave the same chunks to fetch.
  expect(of([byDelta(newDelta(), 2), byDelta(newDelta(), 2)])).toMatchObject({ mostBytes: 2 * 48 + 100 });
});

it('gives the exact cost of a single plan, and adds sites up', () => {
  const need = byDelta(newDelta(), 2);
  expect(of([need], [need])).toEqual({ count: 2, mostBytes: 148, allBytes: 296, isEstimate: false });
});

it('assumes the whole image where devices have not said what they run, and never more', () => {
  expect(of([byDelta(newDelta(), 2), 'image'])).toMatchObject({ mostBytes: 900, isEstimate: true });
  expect(of([byChunks(0, 95)])).toMatchObject({ mostBytes: 900 });
});

it('adds plans up, which never gives too little, where comparing them would take long', () => {
  const long = { ...target, chunkCount: 2 ** 24 + 1 };
  const sites = sitesCost(new Map([['north', new Set([byChunks(0, 20), byChunks(10, 30)])]]), long);
  expect(sites).toMatchObject({ mostBytes: 2 * (7 + 200) });
});

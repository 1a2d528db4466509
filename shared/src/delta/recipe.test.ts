import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { type ChunkIndex, ChunkIndexBuilder, chunkIdOf, sha256 } from '../content/index.ts';
import { codeOf } from './testing/fixtures.ts';
import { MAX_RECIPE_BYTES, MAX_RECIPE_WINDOWS, MAX_WINDOW_BASE_BYTES } from './limits.ts';
import { decodeRecipe, encodeRecipe, type RecipeHead, targetIndexOf, windowsOf } from './recipe.ts';
import type { RecipeWindow } from './recipe-windows.ts';

const SIZES = { minBytes: 16384, avgBytes: 65536, maxBytes: 262144 };

/** An index of chunks that are named by any text. */
function indexOf(chunks: readonly (readonly [name: string, lengthBytes: number])[]): ChunkIndex {
  const builder = new ChunkIndexBuilder(SIZES);
  let end = 0;
  for (const [name, lengthBytes] of chunks) {
    end += lengthBytes;
    builder.add(chunkIdOf(Buffer.from(name)), end);
  }
  return builder.finish();
}

const hashOf = (index: ChunkIndex) => sha256(index.encode()).toString('hex');

function headOf(base: ChunkIndex, target: ChunkIndex, encoders: string[] = []): RecipeHead {
  return {
    product: 'camera',
    from: { counter: 1, indexSha256: hashOf(base) },
    to: { counter: 2, indexSha256: hashOf(target) },
    patchIndexSha256: 'ab'.repeat(32),
    encoders,
    restFrameBytes: 123_456,
  };
}

const BASE = indexOf([
  ['a', 30_000],
  ['b', 40_000],
  ['c', 50_000],
  ['d', 60_000],
  ['e', 70_000],
]);
const TARGET = indexOf([
  ['a', 30_000],
  ['B', 40_010],
  ['c', 50_000],
  ['X', 20_000],
  ['D', 60_000],
  ['a', 30_000],
]);
const WINDOW: RecipeWindow = {
  firstChunk: 1,
  chunkCount: 1,
  baseOffset: 25_000,
  baseLength: 50_000,
  patchLength: 300,
  frameBytes: 20_000,
  encoderBits: 0,
};
const WINDOWS: RecipeWindow[] = [
  WINDOW,
  { ...WINDOW, firstChunk: 3, chunkCount: 2, baseOffset: 100_000, encoderBits: 2 },
];

const encoded = () =>
  encodeRecipe(headOf(BASE, TARGET, ['zstd-1', 'gzip-1']), WINDOWS, { base: BASE, target: TARGET });

it('gives back what was written, and rebuilds the target index with the base index', () => {
  const recipe = decodeRecipe(encoded());
  expect(recipe).toMatchObject({ ...headOf(BASE, TARGET, ['zstd-1', 'gzip-1']), windows: WINDOWS });
  expect(targetIndexOf(recipe, BASE).encode()).toEqual(TARGET.encode());
  expect(windowsOf(recipe, BASE, TARGET)).toMatchObject([
    { targetOffset: 30_000, targetLength: 40_010, patchOffset: 0 },
    { targetOffset: 120_010, targetLength: 80_000, patchOffset: 300 },
  ]);
});

it('writes 33 to 36 bytes for a new chunk, and hardly any for the others', () => {
  const lengths = Array.from({ length: 700 }, (_, at) => 16_384 + ((at * 7_919) % 200_000));
  const base = indexOf(lengths.map((length, at) => [`old ${at}`, length]));
  const target = indexOf(
    lengths.map((length, at) => [at % 2 === 0 ? `old ${at}` : `new ${at}`, length + (at % 2) * (at % 50)]),
  );
  const bytes = encodeRecipe(headOf(base, target), [], { base, target });
  expect(bytes.length).toBeLessThan(200 + 350 * (32 + 1) + 700 * 2);
});

it('gives back any index', () => {
  const chunks = fc.array(
    fc.tuple(fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g'), fc.integer({ min: 1, max: 262_144 })),
    {
      minLength: 1,
      maxLength: 40,
    },
  );
  fc.assert(
    fc.property(chunks, chunks, (one, other) => {
      const [base, target] = [indexOf(one), indexOf(other)];
      const recipe = decodeRecipe(encodeRecipe(headOf(base, target), [], { base, target }));
      expect(targetIndexOf(recipe, base).encode()).toEqual(target.encode());
    }),
  );
});

it('leaves out an index that does not fit', () => {
  const base = indexOf([['a', 1000]]);
  const target = indexOf(Array.from({ length: MAX_RECIPE_BYTES / 32 }, (_, at) => [String(at), 20_000]));
  const recipe = decodeRecipe(encodeRecipe(headOf(base, target), [], { base, target }));
  expect(recipe.indexDifference).toBeUndefined();
  expect(codeOf(() => targetIndexOf(recipe, base))).toBe('SITECAST_RECIPE_INDEX');
});

it('rebuilds no index that is longer than the manifest says', () => {
  const recipe = decodeRecipe(encoded());
  const { length } = TARGET.encode();
  expect(targetIndexOf(recipe, BASE, length).encode()).toEqual(TARGET.encode());
  expect(codeOf(() => targetIndexOf(recipe, BASE, 40))).toBe('SITECAST_RECIPE_INDEX');
});

it('refuses another base index, and an index that is not the one it names', () => {
  const recipe = decodeRecipe(encoded());
  expect(codeOf(() => targetIndexOf(recipe, TARGET))).toBe('SITECAST_RECIPE_INDEX');
  const to = { counter: 2, indexSha256: '00'.repeat(32) };
  expect(codeOf(() => targetIndexOf({ ...recipe, to }, BASE))).toBe('SITECAST_RECIPE_INDEX');
});

it.each([
  ['reads beyond the base', [{ ...WINDOW, baseOffset: 200_001 }]],
  ['makes chunks that the target has not', [{ ...WINDOW, firstChunk: 5, chunkCount: 2 }]],
])('refuses a window that %s', (_, windows) => {
  expect(codeOf(() => encodeRecipe(headOf(BASE, TARGET), windows, { base: BASE, target: TARGET }))).toBe(
    'SITECAST_RECIPE_WINDOWS',
  );
});

it('refuses a window of more than 4 MiB, and takes one of just as much', () => {
  const target = indexOf(Array.from({ length: 17 }, (_, at) => [String(at), 262_144]));
  const windows = (chunkCount: number) => [{ ...WINDOW, firstChunk: 0, chunkCount }];
  const encode = (chunkCount: number) => () =>
    encodeRecipe(headOf(BASE, target), windows(chunkCount), { base: BASE, target });
  expect(codeOf(encode(16))).toBe('done');
  expect(codeOf(encode(17))).toBe('SITECAST_RECIPE_WINDOWS');
});

it('refuses values over each bound, and takes those at it', () => {
  const huge = indexOf(Array.from({ length: 33 }, (_, at) => [String(at), 262_144]));
  const encode = (windows: RecipeWindow[], encoders: string[] = []) =>
    codeOf(() => encodeRecipe(headOf(huge, huge, encoders), windows, { base: huge, target: huge }));
  expect(encode([{ ...WINDOW, baseOffset: 0, baseLength: MAX_WINDOW_BASE_BYTES }])).toBe('done');
  expect(encode([{ ...WINDOW, baseOffset: 0, baseLength: MAX_WINDOW_BASE_BYTES + 1 }])).toBe(
    'SITECAST_RECIPE_INVALID',
  );
  expect(encode([{ ...WINDOW, patchLength: 0 }])).toBe('SITECAST_RECIPE_INVALID');
  expect(encode([{ ...WINDOW, encoderBits: 1 }])).toBe('SITECAST_RECIPE_INVALID');
  expect(encode([{ ...WINDOW, encoderBits: 1 }], ['zstd-1'])).toBe('done');
  expect(encode([], ['zstd-1', 'zstd-1'])).toBe('SITECAST_RECIPE_INVALID');
  const many = indexOf(Array.from({ length: MAX_RECIPE_WINDOWS + 1 }, () => ['a', 1]));
  const each = (count: number) =>
    Array.from({ length: count }, (_, at) => ({
      ...WINDOW,
      firstChunk: at,
      baseOffset: 0,
      baseLength: 1,
    }));
  const encodeMany = (count: number) =>
    codeOf(() => encodeRecipe(headOf(many, many), each(count), { base: many, target: many }));
  expect(encodeMany(MAX_RECIPE_WINDOWS)).toBe('done');
  expect(encodeMany(MAX_RECIPE_WINDOWS + 1)).toBe('SITECAST_RECIPE_INVALID');
});

it('says when a recipe has a format that it does not know', () => {
  const bytes = Buffer.from(encoded());
  bytes[4] = 2;
  expect(codeOf(() => decodeRecipe(bytes))).toBe('SITECAST_RECIPE_FORMAT');
});

it('refuses a recipe that is cut off anywhere, has bytes behind its end, or is too long', () => {
  const bytes = encoded();
  for (let length = 0; length < bytes.length; length += 1)
    expect(['SITECAST_RECIPE_TRUNCATED', 'SITECAST_RECIPE_INVALID']).toContain(
      codeOf(() => decodeRecipe(bytes.subarray(0, length))),
    );
  expect(codeOf(() => decodeRecipe(Buffer.concat([bytes, Buffer.alloc(1)])))).toBe('SITECAST_RECIPE_INVALID');
  expect(codeOf(() => decodeRecipe(Buffer.alloc(MAX_RECIPE_BYTES + 1)))).toBe('SITECAST_RECIPE_TOO_LARGE');
});

it('gives an error with a code, or a recipe, whatever byte is changed', () => {
  const bytes = encoded();
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.nat(255), (at, value) => {
      const changed = Buffer.from(bytes);
      changed[at] = value;
      const code = codeOf(() => {
        const recipe = decodeRecipe(changed);
        windowsOf(recipe, BASE, TARGET);
        const index = targetIndexOf(recipe, BASE);
        expect(hashOf(index)).toBe(recipe.to.indexSha256);
      });
      expect(code).toMatch(/^done$|^SITECAST_RECIPE_/);
    }),
    { numRuns: 2000 },
  );
});

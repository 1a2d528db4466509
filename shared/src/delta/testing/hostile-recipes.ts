import { type ChunkIndex, ChunkIndexBuilder, chunkIdOf, sha256 } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import { rebuiltIndex } from '../index-difference.ts';
import { decodeRecipe } from '../recipe.ts';
import { lie, mutateBytes, mutateTokens, type Random, type Token, write, zigzag } from './mutations.ts';

export interface RecipeCase {
  readonly recipe: Uint8Array;
  readonly base: ChunkIndex;
  readonly target: ChunkIndex;
}

const SIZES = { minBytes: 16_384, avgBytes: 65_536, maxBytes: 262_144 };
const EMPTY_HASH = Buffer.alloc(32);
const MAX_REPAIRED_CHUNKS = 2_000;

function indexOf(random: Random, names: string): ChunkIndex {
  const builder = new ChunkIndexBuilder(SIZES);
  let end = 0;
  for (let count = 5 + random.below(60); count > 0; count -= 1) {
    const name = random.oneIn(3) ? `${names}${random.below(1000)}` : `both ${count}`;
    end += 16_384 + ((name.length * 7_919 + count * 1_000) % 200_000);
    builder.add(chunkIdOf(Buffer.from(name)), end);
  }
  return builder.finish();
}

/** The parts of a recipe. Whatever values they have, they're written in a recipe's format. */
interface Parts {
  readonly encoders: readonly Buffer[];
  /** The columns, in the order of `recipe-windows.ts`. */
  readonly windows: readonly number[][];
  readonly sizes: readonly number[];
  readonly heads: readonly number[];
  readonly chunks: readonly number[];
  readonly steps: readonly number[];
  readonly ids: readonly Buffer[];
}

function tokensOf(parts: Parts, base: ChunkIndex, toHash: Buffer): Token[] {
  const { encoders, windows, sizes, heads, chunks, steps, ids } = parts;
  const text = (bytes: Buffer): Token[] => [bytes.length, bytes];
  return [
    Buffer.from('SCRC'),
    1,
    ...text(Buffer.from('camera')),
    1,
    sha256(base.encode()),
    2,
    toHash,
    EMPTY_HASH,
    encoders.length,
    ...encoders.flatMap(text),
    12_345,
    windows[0]?.length ?? 0,
    ...windows.flat(),
    Buffer.of(1),
    ...sizes,
    heads.length,
    ...heads,
    ...chunks,
    ...steps,
    ...ids,
  ];
}

function partsOf(random: Random, base: ChunkIndex): Parts {
  const count = random.below(6);
  const column = (most: number) => Array.from({ length: count }, () => random.below(most));
  const runs = 1 + random.below(10);
  const heads = Array.from({ length: runs }, () => random.below(12));
  const fresh = freshOf(heads);
  return {
    encoders: [Buffer.from('zstd-1.5.5-wasm'), Buffer.from('pako-2.2.0')].slice(0, random.below(3)),
    windows: [
      column(4),
      column(4),
      column(base.lengthBytes / 6).map(zigzag),
      column(base.lengthBytes / 12),
      column(9_999).map(length => length + 1),
      column(99_999),
      column(1),
    ],
    sizes: [SIZES.minBytes, SIZES.avgBytes, SIZES.maxBytes],
    heads,
    chunks: heads.map((_, at) => zigzag(random.below(5) - (at === 0 ? 0 : 2))),
    steps: Array.from({ length: fresh }, () => zigzag(random.below(1_000))),
    ids: idsOf(fresh),
  };
}

/** Any recipe, with wrong values in it. Half of those that still give an index have the right SHA-256 of it. */
export function hostileRecipe(random: Random): RecipeCase {
  const base = indexOf(random, 'old');
  const target = indexOf(random, 'new');
  const parts = partsOf(random, base);
  const wrong = random.oneIn(2) ? withLie(random, parts) : parts;
  const tokens = tokensOf(wrong, base, EMPTY_HASH);
  const changed = random.oneIn(3) ? mutateTokens(random, tokens) : tokens;
  let recipe = write(changed);
  if (random.oneIn(2)) {
    const hash = hashOf(recipe, base);
    if (hash !== undefined) recipe = write(changed.map(token => (token === EMPTY_HASH ? hash : token)));
  }
  return { recipe: random.oneIn(4) ? mutateBytes(random, recipe) : recipe, base, target };
}

/** Changes one number of any column. The count of new chunks is then that of the runs, unless it is large. */
function withLie(random: Random, parts: Parts): Parts {
  const windows = parts.windows.map(column => [...column]);
  const sizes = [...parts.sizes];
  const heads = [...parts.heads];
  const chunks = [...parts.chunks];
  const steps = [...parts.steps];
  const column = random.pick([sizes, heads, chunks, steps, ...windows]);
  const at = random.below(Math.max(1, column.length));
  if (column.length > 0) column[at] = lie(random, column[at] ?? 0);
  const fresh = freshOf(heads);
  const ids = fresh < MAX_REPAIRED_CHUNKS ? idsOf(fresh) : parts.ids;
  const repaired =
    fresh < MAX_REPAIRED_CHUNKS ? Array.from(ids, (_, chunk) => steps[chunk] ?? 60_000) : steps;
  return { ...parts, windows, sizes, heads, chunks, steps: repaired, ids };
}

function freshOf(heads: readonly number[]): number {
  return heads.reduce((sum, head) => sum + (head % 2 === 1 ? (head + 1) / 2 : 0), 0);
}

function idsOf(count: number): Buffer[] {
  return Array.from({ length: count }, (_, at) => Buffer.from(chunkIdOf(Buffer.from(String(at)))));
}

/** SHA-256 of the index that the recipe gives; undefined where it gives none. */
function hashOf(recipe: Uint8Array, base: ChunkIndex): Buffer | undefined {
  try {
    const { indexDifference } = decodeRecipe(recipe);
    return indexDifference && sha256(rebuiltIndex(indexDifference, base, 2 ** 20).encode());
  } catch (error) {
    // The run compares results; here each refusal counts as no result.
    if (error instanceof SitecastError || error instanceof RangeError) return undefined;
    throw error;
  }
}

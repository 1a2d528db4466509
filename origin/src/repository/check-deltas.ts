import { type ChunkIdSet, ChunkIndex, MAX_INDEX_BYTES } from '@sitecast/shared/content';
import { decodeRecipe, MAX_RECIPE_BYTES } from '@sitecast/shared/delta';
import type { SitecastError } from '@sitecast/shared/errors';
import { type DeltaName, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { ChunkStaging } from '../staging/ports.ts';
import { findChunks } from './check-chunks.ts';
import { sha256Hex } from './committed.ts';
import { deltaKey, type ListedDelta, type ListedFile, type Listing } from './listing.ts';
import { refused } from './refusal.ts';
import type { TargetSource } from './target-source.ts';

/**
 * Deltas that operators have signed and that are listed at one time. Each takes about 300 bytes of the top-level targets, which every
 * client reads.
 */
const MAX_SIGNED_DELTAS = 500;

/** A delta that is to be published. Its patches lie in staging, as chunks. */
export interface NewDelta extends DeltaName {
  recipe: Buffer;
  /** Names the chunks of its patches. */
  patchIndex: Buffer;
}

/** What a new targets.json changes of the deltas. */
export interface DeltasChange {
  added: DeltaName[];
  removed: DeltaName[];
  /** Files that must get into the repository. */
  newFiles: ListedFile[];
}

/**
 * Checks the deltas that a new targets.json lists and that weren't listed before with the same bytes. A delta may be replaced and removed:
 * no device depends on it. One from or to a release that is withdrawn may stay: earlier versions of `sitecast` don't know deltas.
 * @param found gets the staged chunks among those of the patches
 * @throws as `checkDelta`; SITECAST_TOO_MANY_DELTAS (conflict), SITECAST_RECIPE_TOO_LARGE, SITECAST_INDEX_TOO_LARGE, and as
 *   `TargetSource.read`
 */
export async function checkSignedDeltas(
  before: Listing,
  after: Listing,
  { source, chunks, found }: { source: TargetSource; chunks: ChunkStaging; found: ChunkIdSet },
): Promise<DeltasChange> {
  const change: DeltasChange = { added: [], removed: [], newFiles: [] };
  for (const [key, { product, from, to }] of before.deltas)
    if (!after.deltas.has(key)) change.removed.push({ product, from, to });
  for (const [key, delta] of after.deltas) {
    const fresh = freshFiles(before.deltas.get(key), delta);
    if (fresh.length === 0) continue;
    if (after.deltas.size > MAX_SIGNED_DELTAS) throw tooManyDeltas(MAX_SIGNED_DELTAS);
    const { product, from, to } = delta;
    const recipe = await readBounded(delta.recipe, MAX_RECIPE_BYTES, 'SITECAST_RECIPE_TOO_LARGE', source);
    const patchIndex = await readBounded(
      delta.patchIndex,
      MAX_INDEX_BYTES,
      'SITECAST_INDEX_TOO_LARGE',
      source,
    );
    await checkDelta({ product, from, to, recipe, patchIndex }, after, chunks, found);
    change.added.push({ product, from, to });
    change.newFiles.push(...fresh);
  }
  return change;
}

function freshFiles(before: ListedDelta | undefined, { recipe, patchIndex }: ListedDelta): ListedFile[] {
  const isSame = (one: ListedFile | undefined, { sha256, lengthBytes }: ListedFile): boolean =>
    one?.sha256 === sha256 && one.lengthBytes === lengthBytes;
  return [
    ...(isSame(before?.recipe, recipe) ? [] : [recipe]),
    ...(isSame(before?.patchIndex, patchIndex) ? [] : [patchIndex]),
  ];
}

async function readBounded(
  file: ListedFile,
  maxBytes: number,
  code: 'SITECAST_RECIPE_TOO_LARGE' | 'SITECAST_INDEX_TOO_LARGE',
  source: TargetSource,
): Promise<Buffer> {
  if (file.lengthBytes <= maxBytes) return await source.read(file);
  throw refused('tooLarge', code, `${file.name} has more than ${maxBytes} bytes`, { target: file.name });
}

/**
 * A recipe must be of exactly the releases that are listed, and its patches must be there.
 * @param found gets the staged chunks among those of the patches
 * @throws SITECAST_DELTA_RELEASE_UNKNOWN, SITECAST_DELTA_CHUNKS_MISSING (conflict), SITECAST_DELTA_MISMATCH (badInput), and those of
 *   `decodeRecipe`
 */
export async function checkDelta(
  delta: NewDelta,
  listing: Listing,
  chunks: ChunkStaging,
  found: ChunkIdSet,
): Promise<void> {
  const { product, from, to, patchIndex } = delta;
  const recipe = decodeRecipe(delta.recipe);
  for (const [counter, named] of [
    [from, recipe.from],
    [to, recipe.to],
  ] as const) {
    const release = listing.releases.get(product)?.get(counter);
    if (!release) throw releaseUnknown(delta, counter);
    if (recipe.product !== product || named.counter !== counter || named.indexSha256 !== release.index.sha256)
      throw mismatch(delta, 'is of other releases');
  }
  if (recipe.patchIndexSha256 !== sha256Hex(patchIndex)) throw mismatch(delta, 'names another patch index');
  const index = ChunkIndex.decode(patchIndex);
  const patchBytes = recipe.windows.reduce((sum, { patchLength }) => sum + patchLength, 0);
  // An index lists at least one chunk: where there are no patches, it is one byte.
  if (index.lengthBytes !== Math.max(1, patchBytes))
    throw mismatch(delta, 'names more or fewer bytes than its patches have');
  const listed = {
    name: patchIndexTarget(delta),
    sha256: recipe.patchIndexSha256,
    lengthBytes: patchIndex.length,
  };
  const missing = await findChunks({ index: listed }, index, chunks, found);
  if (missing.size > 0) throw chunksMissing(delta, missing.size);
}

function releaseUnknown(delta: DeltaName, counter: number): SitecastError {
  return refused(
    'conflict',
    'SITECAST_DELTA_RELEASE_UNKNOWN',
    `${delta.product} has no published release with the counter ${counter}, which a delta leads from or to`,
    { delta: deltaKey(delta), counter },
  );
}

function mismatch(delta: DeltaName, what: string): SitecastError {
  return refused('badInput', 'SITECAST_DELTA_MISMATCH', `${recipeTarget(delta)} ${what}`, {
    target: recipeTarget(delta),
  });
}

function chunksMissing(delta: DeltaName, count: number): SitecastError {
  return refused(
    'conflict',
    'SITECAST_DELTA_CHUNKS_MISSING',
    `${count} chunks of the patches of ${recipeTarget(delta)} are not there, or not right`,
    { target: recipeTarget(delta), count },
  );
}

export function tooManyDeltas(maxDeltas: number): SitecastError {
  return refused(
    'conflict',
    'SITECAST_TOO_MANY_DELTAS',
    `at most ${maxDeltas} deltas are listed at one time`,
    { maxDeltas },
    'End rollouts, or withdraw releases: their deltas go with them.',
  );
}

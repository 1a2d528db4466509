import { ChunkIndex } from '@sitecast/shared/content';
import { decodeRecipe, MAX_RECIPE_BYTES, targetIndexOf } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';
import { indexTarget, parseTargetName } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import { inForce } from './mirror-set.ts';
import type { TargetFiles } from './target-files.ts';

// Sender: the holder of the key of `deltas`, or a machine that answers as an upstream. The worst: it lists a recipe that gives another
// index. The hash is compared, and the index is then fetched, as it would be without deltas; the recipe was shorter than the index.

/**
 * Rebuilds missing chunk indexes from recipes: devices of the site fetch the recipes anyway, and these give the target's index as a
 * difference to the base's. Indexes that can't be rebuilt are left to be fetched.
 * @param wanted targets of any kind; only indexes count
 * @param targets all that the set lists
 * @param isRun whether a device of this site is known to run a release: its recipe is preferred
 */
export async function rebuildIndexes(
  wanted: readonly FoundTarget[],
  targets: ReadonlyMap<string, FoundTarget>,
  {
    files,
    isRun,
    signal,
  }: {
    files: TargetFiles;
    isRun: (product: string, counter: number) => boolean;
    signal?: AbortSignal;
  },
): Promise<void> {
  for (const target of wanted) {
    const parsed = parseTargetName(target.name);
    if (parsed?.kind !== 'index' || (await files.local(target))) continue;
    const byName = inForce(targets);
    const bases = await localBases(byName, { target, ...parsed, isRun, files });
    const [first] = bases.sort((one, other) => other.worth - one.worth);
    if (!first) continue;
    try {
      const recipe = decodeRecipe(await files.get(first.recipe, signal));
      await files.adopt(target, targetIndexOf(recipe, first.base, target.file.length).encode());
    } catch (error) {
      // The recipe can't be fetched, or doesn't give this index.
      if (!(error instanceof SitecastError) || error.kind === 'noSpace') throw error;
    }
  }
}

interface Base {
  recipe: FoundTarget;
  base: ChunkIndex;
  /** The larger, the better. */
  worth: number;
}

/** Recipes from an index that is stored here to this one, if they are shorter than the index itself. */
async function localBases(
  byName: ReadonlyMap<string, FoundTarget>,
  {
    target,
    product,
    counter,
    isRun,
    files,
  }: {
    target: FoundTarget;
    product: string;
    counter: number;
    isRun: (product: string, counter: number) => boolean;
    files: TargetFiles;
  },
): Promise<Base[]> {
  const bases: Base[] = [];
  for (const recipe of byName.values()) {
    const delta = parseTargetName(recipe.name);
    if (delta?.kind !== 'recipe' || delta.product !== product || delta.to !== counter) continue;
    const savedBytes = target.file.length - recipe.file.length;
    if (savedBytes <= 0 || recipe.file.length > MAX_RECIPE_BYTES) continue;
    const listed = byName.get(indexTarget(product, delta.from));
    const base = listed && (await readIndex(files, listed));
    // A site's own device will ask for the recipe as well.
    if (base)
      bases.push({ recipe, base, worth: savedBytes + (isRun(product, delta.from) ? target.file.length : 0) });
  }
  return bases;
}

async function readIndex(files: TargetFiles, target: FoundTarget): Promise<ChunkIndex | undefined> {
  const bytes = await files.local(target);
  try {
    return bytes && ChunkIndex.decode(bytes);
  } catch (error) {
    // A later format.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

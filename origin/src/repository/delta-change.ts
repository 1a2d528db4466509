import { ChunkIdSet, ChunkIndex } from '@sitecast/shared/content';
import { decodeRecipe } from '@sitecast/shared/delta';
import type { SitecastError } from '@sitecast/shared/errors';
import { type DeltaName, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { TargetFile } from '@sitecast/shared/trust';
import type { ChunkStaging } from '../staging/ports.ts';
import { findChunks } from './check-chunks.ts';
import { type CommitPlan, targetFilesOf } from './commit-plan.ts';
import { type Committed, sha256Hex } from './committed.ts';
import { deltaKey, listedDeltas, withoutDeltas } from './delta-listing.ts';
import { type Listing, readListing } from './listing.ts';
import type { OnlineSigner } from './online-signer.ts';
import { refused } from './refusal.ts';
import type { VersionFloor } from './repository-store.ts';

/** Deltas that are listed at one time: devices read the whole list. */
const MAX_LISTED_DELTAS = 2000;

/** A delta that is to be published. Its patches lie in staging, as chunks. */
export interface NewDelta extends DeltaName {
  recipe: Buffer;
  /** Names the chunks of its patches. */
  patchIndex: Buffer;
}

/** What changes of the deltas, all of it or nothing. */
export interface DeltaChange {
  /** Each goes in the place of the one of its name. */
  added?: readonly NewDelta[];
  removed?: readonly DeltaName[];
}

interface DeltaDeps {
  chunks: ChunkStaging;
  signer: Pick<OnlineSigner, 'sign'>;
  floor: VersionFloor;
}

/**
 * Checks a change of the deltas that the origin publishes, and signs the state that it leads to.
 * @returns undefined if nothing would change
 * @throws SITECAST_DELTA_RELEASE_UNKNOWN, SITECAST_DELTA_CHUNKS_MISSING, SITECAST_TOO_MANY_DELTAS (conflict),
 *   SITECAST_DELTA_MISMATCH (badInput), those of `decodeRecipe`, SITECAST_ONLINE_KEY_MISSING
 */
export async function planDeltas(
  { chunks, signer, floor }: DeltaDeps,
  previous: Committed,
  { added = [], removed = [] }: DeltaChange,
): Promise<CommitPlan | undefined> {
  const { root, targets } = previous;
  const listing = readListing(targets.signed);
  const found = new ChunkIdSet();
  const files = new Map<string, Buffer>();
  for (const delta of added) {
    await checkDelta(delta, listing, chunks, found);
    files.set(recipeTarget(delta), delta.recipe).set(patchIndexTarget(delta), delta.patchIndex);
  }
  const before = previous.deltas.signed.targets;
  const deltasTargets = withoutDeltas(before, removed);
  const targetFiles = targetFilesOf(files);
  for (const { name, sha256, bytes } of targetFiles)
    deltasTargets[name] = { length: bytes.length, hashes: { sha256 } };
  if (isSame(before, deltasTargets)) return undefined;
  if (Object.keys(deltasTargets).length > 2 * MAX_LISTED_DELTAS) throw tooMany();
  const {
    next,
    targetFiles: others,
    ...signed
  } = await signer.sign({
    root,
    targets,
    previous,
    floor,
    deltasTargets,
  });
  return {
    previous,
    next,
    ...signed,
    targetFiles: [...targetFiles, ...others],
    chunks: found.bytes(),
  };
}

/** The deltas that lead from or to a release that isn't listed any more. */
export function orphanedDeltas(committed: Committed): DeltaName[] {
  const { releases } = readListing(committed.targets.signed);
  return listedDeltas(committed).filter(({ product, from, to }) => {
    const listed = releases.get(product);
    return listed?.has(from) !== true || !listed.has(to);
  });
}

/** A recipe must be of exactly the releases that are listed, and its patches must be there. */
async function checkDelta(
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
  if (index.lengthBytes !== patchBytes)
    throw mismatch(delta, 'names more or fewer bytes than its patches have');
  const listed = {
    name: patchIndexTarget(delta),
    sha256: recipe.patchIndexSha256,
    lengthBytes: patchIndex.length,
  };
  const missing = await findChunks({ index: listed }, index, chunks, found);
  if (missing.size > 0) throw chunksMissing(delta, missing.size);
}

function isSame(
  one: Readonly<Record<string, TargetFile>>,
  other: Readonly<Record<string, TargetFile>>,
): boolean {
  const names = Object.keys(one);
  return (
    names.length === Object.keys(other).length &&
    names.every(name => one[name]?.hashes.sha256 === other[name]?.hashes.sha256)
  );
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

function tooMany(): SitecastError {
  return refused(
    'conflict',
    'SITECAST_TOO_MANY_DELTAS',
    `at most ${MAX_LISTED_DELTAS} deltas are listed at one time`,
    { maxDeltas: MAX_LISTED_DELTAS },
    'End rollouts, or withdraw releases: their deltas go with them.',
  );
}

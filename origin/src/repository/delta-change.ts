import { ChunkIdSet } from '@sitecast/shared/content';
import { type DeltaName, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { TargetFile } from '@sitecast/shared/trust';
import type { ChunkStaging } from '../staging/ports.ts';
import { checkDelta, type NewDelta, tooManyDeltas } from './check-deltas.ts';
import { type CommitPlan, targetFilesOf } from './commit-plan.ts';
import type { Committed } from './committed.ts';
import { withoutDeltas } from './delta-listing.ts';
import { readListing } from './listing.ts';
import type { OnlineSigner } from './online-signer.ts';
import type { VersionFloor } from './repository-store.ts';

/** Deltas of the origin that are listed at one time: devices read the whole list. */
export const MAX_LISTED_DELTAS = 2000;

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
  if (Object.keys(deltasTargets).length > 2 * MAX_LISTED_DELTAS) throw tooManyDeltas(MAX_LISTED_DELTAS);
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

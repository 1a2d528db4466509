import { ONLINE_ROLES } from '@sitecast/shared/signing';
import { type Metadata, targetPath, verifyThreshold } from '@sitecast/shared/trust';
import type { Chunks } from '../staging/chunks.ts';
import type { StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { checkListing, type ListingChange } from './check-releases.ts';
import { checkRoot } from './check-root.ts';
import { checkTargetsMetadata, readListing } from './check-targets.ts';
import type { NewTargetFile } from './commit.ts';
import { type Committed, ROLES, sha256Hex, signersOf } from './committed.ts';
import { targetSource, type TargetSourceDeps } from './target-source.ts';

/** The repository as others have seen it, while this data directory hasn't. */
export interface AdoptedState extends Omit<Committed, 'root'> {
  /** Those after the root that is in force here, in order. */
  roots: readonly Metadata<'root'>[];
  /** The files that `rollouts` lists, by name. */
  rolloutFiles: ReadonlyMap<string, Buffer>;
}

interface AdoptionDeps extends Pick<TargetSourceDeps, 'readPublished'> {
  files: Files;
  chunks: Chunks;
  staged: StagedFiles;
}

/** What is published here once a state is taken over. */
export interface Adoption {
  /** As others have seen it, with the very signatures: those of the origin's roles may be by keys that are lost here. */
  seen: Committed;
  /** Roots between the one in force and the newest. */
  rootsBetween: readonly Metadata<'root'>[];
  change: ListingChange;
  rolloutFiles: NewTargetFile[];
}

/**
 * Checks a state that was published before and is lost here: it may be any number of versions ahead, it may have expired (it was good
 * when it was submitted), and it may name keys that this origin doesn't have.
 * @throws the codes of docs/ERRORS.md under "Publishing"
 */
export async function checkAdopted(
  { files, chunks, staged, readPublished }: AdoptionDeps,
  previous: Committed,
  { roots, rolloutFiles, ...rest }: AdoptedState,
): Promise<Adoption> {
  let { root } = previous;
  for (const next of roots) {
    checkRoot(next, root, undefined);
    root = next;
  }
  // What is here already keeps its identity: it isn't written again.
  const seen = { ...rest, root };
  for (const role of ROLES) keepSame(seen, previous, role);
  checkTargetsMetadata(seen.targets, root, undefined, undefined);
  for (const role of ONLINE_ROLES)
    verifyThreshold(seen[role], signersOf(role, root.signed, seen.targets.signed), { role });
  const before = readListing(previous.targets.signed);
  const source = targetSource({ files, staged, published: before, readPublished });
  const change = await checkListing(before, readListing(seen.targets.signed), {
    source,
    chunks,
    isAdopted: true,
  });
  return {
    seen,
    rootsBetween: roots.slice(0, -1),
    change,
    rolloutFiles: targetFilesOf(rolloutFiles),
  };
}

/** @param byName as in `rollouts/camera.json` */
export function targetFilesOf(
  byName: ReadonlyMap<string, Buffer>,
): (NewTargetFile & { name: string; bytes: Buffer })[] {
  return [...byName].map(([name, bytes]) => {
    const sha256 = sha256Hex(bytes);
    return { name, sha256, path: targetPath(name, sha256), bytes };
  });
}

function keepSame<R extends keyof Committed>(seen: Committed, previous: Committed, role: R): void {
  if (Buffer.compare(seen[role].bytes, previous[role].bytes) === 0) seen[role] = previous[role];
}

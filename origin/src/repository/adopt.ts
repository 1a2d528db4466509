import { ChunkIdSet, ChunkIndex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { parseReleaseManifest } from '@sitecast/shared/release';
import { ONLINE_ROLES } from '@sitecast/shared/signing';
import { type Metadata, verifyThreshold } from '@sitecast/shared/trust';
import type { Chunks } from '../staging/chunks.ts';
import type { StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { findChunks } from './check-chunks.ts';
import type { LackingRelease } from './check-releases.ts';
import { checkRoot } from './check-root.ts';
import {
  checkTargetsMetadata,
  type ListedFile,
  type Listing,
  readListing,
  targetFilePath,
  type TargetSource,
} from './check-targets.ts';
import { type CommitPlan, newTargetFile, targetFilesOf } from './commit.ts';
import { type Committed, signersOf } from './committed.ts';
import type { VersionFloor } from './online-roles.ts';
import type { OnlineSigner } from './online-signer.ts';
import { isLost, listedFiles, releasesIn, targetSource, type TargetSourceDeps } from './target-source.ts';

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
  signer: Pick<OnlineSigner, 'missingKeys' | 'sign'>;
  /** Above which versions are signed. */
  floor: VersionFloor;
}

/** What an adopted listing brings in: all of it was checked when it was published. */
interface AdoptedFiles {
  /** Those of its new files that are at hand. */
  newFiles: ListedFile[];
  /** Those that nobody has. */
  lost: ListedFile[];
  /** Staged chunks of new releases. */
  chunks: ChunkIdSet;
  /** Releases whose chunks nobody has. */
  lacking: LackingRelease[];
}

/** How a state is taken over. */
interface Adoption {
  plan: CommitPlan;
  change: AdoptedFiles;
  /** False where it's taken as others have seen it, for want of a key. */
  isSignedHere: boolean;
}

/**
 * Checks a state that was published before and is lost here: it may be any number of versions ahead, it may have expired (it was good
 * when it was submitted), and it may name keys that this origin doesn't have. With all keys at hand it's signed anew, above all versions
 * that anybody has seen; else it's taken with the very signatures.
 * @throws the codes of docs/ERRORS.md under "Publishing"; as `OnlineSigner.sign`
 */
export async function planAdoption(
  { files, chunks, staged, readPublished, signer, floor }: AdoptionDeps,
  previous: Committed,
  { roots, rolloutFiles, ...rest }: AdoptedState,
): Promise<Adoption> {
  let { root } = previous;
  for (const next of roots) {
    checkRoot(next, root, undefined);
    root = next;
  }
  const seen = { ...keepingSame(rest, previous), root };
  checkTargetsMetadata(seen.targets, root, undefined, undefined);
  for (const role of ONLINE_ROLES)
    verifyThreshold(seen[role], signersOf(role, root.signed, seen.targets.signed), { role });
  const before = readListing(previous.targets.signed);
  const source = targetSource({ files, staged, published: before, readPublished });
  const change = await adoptedFiles(before, readListing(seen.targets.signed), { source, chunks });
  const isSignedHere = signer.missingKeys(seen).length === 0;
  const { next, targetFiles, ...signed } = isSignedHere
    ? await signer.sign({ root, targets: seen.targets, previous, floor })
    : { next: seen, targetFiles: targetFilesOf(rolloutFiles) };
  const plan = {
    previous,
    next,
    ...signed,
    rootsBetween: roots.slice(0, -1),
    targetFiles: [...change.newFiles.map(newTargetFile), ...targetFiles],
    chunks: change.chunks.bytes(),
    floor,
  };
  return { plan, change, isSignedHere };
}

async function adoptedFiles(
  before: Listing,
  after: Listing,
  { source, chunks }: { source: TargetSource; chunks: Chunks },
): Promise<AdoptedFiles> {
  const adopted: AdoptedFiles = { newFiles: [], lost: [], chunks: new ChunkIdSet(), lacking: [] };
  const known = new Set(listedFiles(before).map(targetFilePath));
  for (const file of listedFiles(after)) {
    if (known.has(targetFilePath(file))) continue;
    ((await readUnlessLost(source, file)) ? adopted.newFiles : adopted.lost).push(file);
  }
  for (const release of releasesIn(after)) {
    const { product, counter } = release;
    if (before.releases.get(product)?.has(counter)) continue;
    const [manifest, index] = [
      await readUnlessLost(source, release.manifest),
      await readUnlessLost(source, release.index),
    ];
    const missing = index && (await findChunks(release, ChunkIndex.decode(index), chunks, adopted.chunks));
    if (!manifest || !missing || missing.size === 0) continue;
    const { version } = parseReleaseManifest(manifest);
    adopted.lacking.push({ product, counter, version, chunks: missing.size });
  }
  return adopted;
}

async function readUnlessLost(source: TargetSource, file: ListedFile): Promise<Buffer | undefined> {
  try {
    return await source.read(file);
  } catch (error) {
    if (isLost(error) || (error instanceof SitecastError && error.code === 'SITECAST_FILES_MISSING'))
      return undefined;
    throw error;
  }
}

/** What is here already keeps its identity: it isn't written again, and an undone commit doesn't delete it. */
function keepingSame(seen: Omit<Committed, 'root'>, here: Committed): Omit<Committed, 'root'> {
  return {
    targets: sameOr(seen.targets, here.targets),
    rollouts: sameOr(seen.rollouts, here.rollouts),
    deltas: sameOr(seen.deltas, here.deltas),
    snapshot: sameOr(seen.snapshot, here.snapshot),
    timestamp: sameOr(seen.timestamp, here.timestamp),
  };
}

function sameOr<M extends Metadata>(seen: M, here: M): M {
  return Buffer.compare(seen.bytes, here.bytes) === 0 ? here : seen;
}

import { ChunkIdSet, ChunkIndex, eachId } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { parseReleaseManifest } from '@sitecast/shared/release';
import { ONLINE_ROLES } from '@sitecast/shared/signing';
import { type Metadata, type TargetFile, verifyThreshold } from '@sitecast/shared/trust';
import type { ChunkStaging } from '../staging/ports.ts';
import { findChunks } from './check-chunks.ts';
import type { LackingRelease } from './check-releases.ts';
import { checkRoot, checkTargetsMetadata } from './check-metadata.ts';
import { type CommitPlan, stagedTarget, targetFilesOf } from './commit-plan.ts';
import { type Committed, signersOf } from './committed.ts';
import { listedDeltas } from './delta-listing.ts';
import { type ListedFile, type Listing, listedFiles, readListing, releasesIn, targetKey } from './listing.ts';
import type { OnlineSigner } from './online-signer.ts';
import type { VersionFloor } from './repository-store.ts';
import { isLost, type TargetSource, targetSource, type TargetSourceDeps } from './target-source.ts';

/** A state of the repository that others have seen, but that this data directory lacks. */
export interface AdoptedState extends Omit<Committed, 'root'> {
  /** The roots after the one that is in force here, in order. */
  roots: readonly Metadata<'root'>[];
  /** The files that `rollouts` lists, by name. */
  rolloutFiles: ReadonlyMap<string, Buffer>;
}

interface AdoptionDeps extends TargetSourceDeps {
  chunks: ChunkStaging;
  signer: Pick<OnlineSigner, 'missingKeys' | 'sign'>;
  /** Only higher versions may be signed. */
  floor: VersionFloor;
}

/** What an adopted listing adds. All of it was checked when it was published. */
interface AdoptedFiles {
  /** New files that are available. */
  newFiles: ListedFile[];
  /** New files that are lost. */
  lost: ListedFile[];
  /** Staged chunks of new releases and deltas. */
  chunks: ChunkIdSet;
  /** Releases that lack chunks. */
  lacking: LackingRelease[];
}

/** How a state is adopted. */
interface Adoption {
  plan: CommitPlan;
  change: AdoptedFiles;
  /** False if it is published with the signatures that it has, because a key is missing here. */
  isSignedHere: boolean;
}

/**
 * Checks a state that was published before and is lost here. It may be any number of versions ahead, may have expired since, and may name
 * keys that this origin doesn't have. With all keys at hand it is signed again, with versions higher than any that clients may have seen.
 * Otherwise it is published with the signatures that it has.
 * @throws the codes of docs/ERRORS.md under "Publishing"; what `OnlineSigner.sign` throws
 */
export async function planAdoption(
  deps: AdoptionDeps,
  previous: Committed,
  { roots, rolloutFiles, ...rest }: AdoptedState,
): Promise<Adoption> {
  const { chunks, signer, floor } = deps;
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
  const source = targetSource(deps, before);
  const change = await adoptedFiles(before, readListing(seen.targets.signed), { source, chunks });
  const deltasTargets = await adoptedDeltas(seen, { source, chunks }, change);
  const isSignedHere = signer.missingKeys(seen).length === 0;
  const { next, targetFiles, ...signed } = isSignedHere
    ? await signer.sign({ root, targets: seen.targets, previous, floor, deltasTargets })
    : { next: seen, targetFiles: targetFilesOf(rolloutFiles) };
  const plan = {
    previous,
    next,
    ...signed,
    rootsBetween: roots.slice(0, -1),
    targetFiles: [...change.newFiles.map(stagedTarget), ...targetFiles],
    chunks: change.chunks.bytes(),
  };
  return { plan, change, isSignedHere };
}

async function adoptedFiles(
  before: Listing,
  after: Listing,
  { source, chunks }: { source: TargetSource; chunks: ChunkStaging },
): Promise<AdoptedFiles> {
  const adopted: AdoptedFiles = { newFiles: [], lost: [], chunks: new ChunkIdSet(), lacking: [] };
  const known = new Set(listedFiles(before).map(targetKey));
  for (const file of listedFiles(after)) {
    if (known.has(targetKey(file))) continue;
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
  await adoptSignedPatches(before, after, { source, chunks }, adopted);
  return adopted;
}

/** No release depends on a delta, so missing parts of one are only noted as damage, in the next survey. */
async function adoptSignedPatches(
  before: Listing,
  after: Listing,
  { source, chunks }: { source: TargetSource; chunks: ChunkStaging },
  adopted: Pick<AdoptedFiles, 'chunks'>,
): Promise<void> {
  for (const [key, { patchIndex }] of after.deltas) {
    if (before.deltas.get(key)?.patchIndex.sha256 === patchIndex.sha256) continue;
    const bytes = await readUnlessLost(source, patchIndex);
    if (bytes) await findChunks({ index: patchIndex }, ChunkIndex.decode(bytes), chunks, adopted.chunks);
  }
}

/**
 * The deltas that are complete stay listed: their files and staged chunks are added to `adopted`. The others are made again.
 * @returns what the role lists
 */
async function adoptedDeltas(
  seen: Committed,
  { source, chunks }: { source: TargetSource; chunks: ChunkStaging },
  adopted: Pick<AdoptedFiles, 'newFiles' | 'chunks'>,
): Promise<Record<string, TargetFile>> {
  const listed: Record<string, TargetFile> = {};
  const { targets } = seen.deltas.signed;
  for (const { recipe, patchIndex } of listedDeltas(seen)) {
    const index = (await readUnlessLost(source, recipe)) && (await readUnlessLost(source, patchIndex));
    if (!index) continue;
    const found = await stagedOf(patchIndex, index, chunks);
    if (!found) continue;
    for (const id of eachId(found.bytes())) adopted.chunks.add(id);
    for (const { name, ...file } of [recipe, patchIndex]) {
      adopted.newFiles.push({ name, ...file });
      const entry = targets[name];
      if (entry) listed[name] = entry;
    }
  }
  return listed;
}

/**
 * Its list isn't trusted: whoever has stolen the role's key may have signed anything.
 * @returns the staged chunks of a patch index; undefined if some are missing, or if it isn't an index
 */
async function stagedOf(
  patchIndex: ListedFile,
  bytes: Buffer,
  chunks: ChunkStaging,
): Promise<ChunkIdSet | undefined> {
  const found = new ChunkIdSet();
  try {
    const missing = await findChunks({ index: patchIndex }, ChunkIndex.decode(bytes), chunks, found);
    return missing.size > 0 ? undefined : found;
  } catch (error) {
    const isFalse =
      error instanceof SitecastError && (error.kind === 'badInput' || error.kind === 'tooLarge');
    if (isFalse) return undefined;
    throw error;
  }
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

/** Metadata that exists here already keeps its identity, so it isn't written again, and undoing the commit doesn't delete it. */
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

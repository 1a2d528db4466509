import { countIds } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import {
  delegatedSigners,
  findMismatch,
  type Metadata,
  type MetadataType,
  type MetaFile,
  metadataPath,
  parseMetadata,
  type RoleSigners,
  targetPath,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import type { DamagedDelta, DamagedRelease } from '../repository/damage.ts';
import type { Log } from '../log.ts';
import { parsedRoot, readRoot, sha256Hex } from '../repository/committed.ts';
import { allDeltas, publishedIndexes } from '../repository/delta-listing.ts';
import { publishedFiles, releasesOf } from '../repository/listing.ts';
import type { PublishedChunks, RepositoryStore } from '../repository/repository-store.ts';
import type { Repository } from '../repository/repository.ts';
import { maxBytesOf, type Role } from '../repository/roles.ts';
import { Survey } from '../repository/survey.ts';
import type { ChunkStaging } from '../staging/ports.ts';
import { chunksOf, stageChunks } from './chunks-from-mirrors.ts';
import type { Mirror } from './mirror-copy.ts';
import type { UnreadMirror } from './watched-mirrors.ts';

/** What was brought back, and what no mirror has. */
export interface Restored {
  metadata: string[];
  files: string[];
  chunks: number;
  lost: { releases: DamagedRelease[]; deltas: DamagedDelta[]; files: string[] };
}

/** What a whole restoration found and did. */
export interface RestoredFrom extends Restored {
  /** The mirrors that were named. */
  asked: readonly string[];
  /** Those of them that could not be asked. */
  unread: UnreadMirror[];
}

/**
 * Brings back metadata files that are damaged or lost, so that the repository can be opened. A file is taken only if it is the
 * right one: by the hash that its referrer names, or by version and signatures if the referrer is lost as well. The timestamp isn't
 * fetched: the origin signs it anew.
 * @param mayBeNewer whether a root after the newest may be taken as well. It doesn't fit to a backup, which catches up as a whole.
 * @returns the names of the files that came back
 */
export async function restoreMetadata(
  published: RepositoryStore,
  mirrors: readonly Mirror[],
  { mayBeNewer = true } = {},
): Promise<string[]> {
  const newest = await published.newestVersions();
  const restored = await restoreRoots(published, newest.get('root') ?? 0, { mirrors, mayBeNewer });
  const root = await readRoot(published, (await published.newestVersions()).get('root') ?? 0);
  if (!root) return restored;
  const keep = async <T extends MetadataType>(
    role: Role,
    type: T,
    signers: RoleSigners | undefined,
    listed: MetaFile | undefined,
  ): Promise<Metadata<T> | undefined> => {
    const file = listed ?? { version: newest.get(role) ?? 0 };
    const path = metadataPath(role, file.version);
    const isRight = (bytes: Uint8Array) => verified(bytes, type, signers, file);
    const here = await published.metadata(role, file.version);
    const found = here && isRight(here);
    if (found) return found;
    const fetched = await fetchRight(mirrors, path, maxBytesOf(role), isRight);
    if (!fetched) return undefined;
    await published.repairMetadata({ role, version: file.version, bytes: fetched.bytes });
    restored.push(path);
    return fetched;
  };
  const timestamp = await published.timestamp();
  const trusted = timestamp && verified(timestamp, 'timestamp', topLevelSigners(root.signed, 'timestamp'));
  const signersOfSnapshot = topLevelSigners(root.signed, 'snapshot');
  const snapshotFile = trusted?.signed.meta['snapshot.json'];
  const snapshot = await keep('snapshot', 'snapshot', signersOfSnapshot, snapshotFile);
  const listed = (role: string) => snapshot?.signed.meta[`${role}.json`];
  const targets = await keep(
    'targets',
    'targets',
    topLevelSigners(root.signed, 'targets'),
    listed('targets'),
  );
  for (const role of ['rollouts', 'deltas'] as const)
    await keep(role, 'targets', delegatedSigners(targets?.signed.delegations, role), listed(role));
  return restored;
}

interface RestoreDeps {
  repository: Repository;
  published: RepositoryStore;
  publishedChunks: PublishedChunks;
  chunks: ChunkStaging;
  log: Log;
}

/** Reads back all that is published, and brings damaged and lost files and chunks back from mirrors. */
export async function restoreContent(
  deps: RestoreDeps,
  mirrors: readonly Mirror[],
): Promise<Omit<Restored, 'metadata'>> {
  const { repository, published, publishedChunks, chunks } = deps;
  const survey = new Survey({ ...deps, republishRollouts: notHere });
  const { committed, damage } = repository;
  if (!committed) return { files: [], chunks: 0, lost: { releases: [], deltas: [], files: [] } };
  const restored: string[] = [];
  for (const file of publishedFiles(committed)) {
    if (await repository.content.read(file)) continue;
    const path = targetPath(file.name, file.sha256);
    const bytes = await fetchTarget(mirrors, path, file);
    if (!bytes) continue;
    await published.repairTarget(file, bytes);
    restored.push(file.name);
  }
  const store = chunksOf(mirrors);
  for (const index of publishedIndexes(committed)) {
    const ids = await survey.chunksIn(index);
    await survey.inspect(ids);
    const lost = await publishedChunks.lacking(ids);
    if (countIds(lost) > 0) await stageChunks(chunks, lost, { store });
  }
  const repaired = await repository.repair();
  await survey.lookAtRoots(committed);
  for (const file of publishedFiles(committed)) await survey.lookAtFile(file);
  for (const release of releasesOf(committed)) await survey.lookAtRelease(release);
  for (const delta of allDeltas(committed)) await survey.lookAtDelta(delta);
  const lost = {
    releases: damage.namedReleases(),
    deltas: damage.namedDeltas(),
    files: damage.namedFiles(),
  };
  return { files: [...restored, ...repaired.files], chunks: repaired.chunks, lost };
}

async function notHere(): Promise<void> {
  throw new SitecastError('failed', 'SITECAST_FILES_LOST', 'a rollouts file is lost, and no mirror has it');
}

/**
 * Each root is signed by the keys of the one before, so a fetched root must fit those beside it. All lost roots are asked for again
 * as long as one more comes back. The newest may be lost with its name, so one more is asked for than is known of. Nothing comes
 * before the first root: the operator who started the fleet has it as `root.json`.
 */
async function restoreRoots(
  published: RepositoryStore,
  newest: number,
  { mirrors, mayBeNewer }: { mirrors: readonly Mirror[]; mayBeNewer: boolean },
): Promise<string[]> {
  const restored: string[] = [];
  for (let before = -1; before < restored.length; ) {
    before = restored.length;
    for (let version = 1; version <= (mayBeNewer ? newest + restored.length + 1 : newest); version += 1) {
      if (await readRoot(published, version)) continue;
      const beside = {
        before: await readRoot(published, version - 1),
        next: await readRoot(published, version + 1),
      };
      const path = metadataPath('root', version);
      const fits = (bytes: Uint8Array) => fittingRoot(bytes, version, beside);
      const fetched = await fetchRight(mirrors, path, maxBytesOf('root'), fits);
      if (!fetched) continue;
      await published.repairMetadata({ role: 'root', version, bytes: fetched.bytes });
      restored.push(path);
    }
  }
  return restored;
}

function fittingRoot(
  bytes: Uint8Array,
  version: number,
  { before, next }: { before: Metadata<'root'> | undefined; next: Metadata<'root'> | undefined },
): Metadata<'root'> | undefined {
  const root = parsedRoot(bytes, version);
  // Without a right root beside it, nothing says whose it is.
  if (!root || (!before && !next)) return undefined;
  const isByBefore = !before || isSigned(root, topLevelSigners(before.signed, 'root'));
  const signsNext = !next || isSigned(next, topLevelSigners(root.signed, 'root'));
  return isByBefore && signsNext ? root : undefined;
}

function verified<T extends MetadataType>(
  bytes: Uint8Array,
  type: T,
  signers: RoleSigners | undefined,
  listed?: MetaFile,
): Metadata<T> | undefined {
  if (!signers || (listed && findMismatch(bytes, listed) !== undefined)) return undefined;
  try {
    const metadata = parseMetadata(bytes, type);
    const isListed = listed === undefined || metadata.signed.version === listed.version;
    return isListed && isSigned(metadata, signers) ? metadata : undefined;
  } catch (error) {
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

function isSigned(metadata: Metadata, signers: RoleSigners): boolean {
  try {
    verifyThreshold(metadata, signers, { role: 'restored' });
    return true;
  } catch (error) {
    if (error instanceof SitecastError) return false;
    throw error;
  }
}

async function fetchRight<T>(
  mirrors: readonly Mirror[],
  path: string,
  maxBytes: number,
  right: (bytes: Uint8Array) => T | undefined,
): Promise<T | undefined> {
  for (const { metadata } of mirrors) {
    const bytes = await tried(() => metadata.fetch(path, { maxBytes }));
    const found = bytes && right(bytes);
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * Fetches a file from the first mirror that has the right one.
 * @param onFailed called for each mirror that doesn't give it; `gaveWrong` if it gives something else
 */
export async function fetchTarget(
  mirrors: readonly Mirror[],
  path: string,
  { sha256, lengthBytes }: { sha256: string; lengthBytes: number },
  onFailed: (mirror: Mirror, gaveWrong: boolean) => void = () => undefined,
): Promise<Uint8Array | undefined> {
  for (const mirror of mirrors) {
    let gaveWrong = false;
    const bytes = await tried(
      () => mirror.targets.fetch(path, { maxBytes: lengthBytes }),
      error => {
        gaveWrong = error.kind === 'tooLarge';
      },
    );
    if (bytes && sha256Hex(bytes) === sha256) return bytes;
    onFailed(mirror, gaveWrong || bytes !== undefined);
  }
  return undefined;
}

/** If one mirror fails, the next one may not. */
async function tried<T>(
  act: () => Promise<T>,
  onError: (error: SitecastError) => void = () => undefined,
): Promise<T | undefined> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof SitecastError)) throw error;
    onError(error);
    return undefined;
  }
}

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
import type { DamagedRelease } from '../repository/damage.ts';
import { maxBytesOf, METADATA, type Role, sha256Hex, TIMESTAMP } from '../repository/committed.ts';
import { parsedRoot, publishedFiles, readRoot, setFileAside } from '../repository/published-files.ts';
import { newestVersions } from '../repository/rebuild.ts';
import type { Repository } from '../repository/repository.ts';
import { releasesOf, Survey } from '../repository/survey.ts';
import type { Chunks } from '../staging/chunks.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import type { Log } from '../log.ts';
import { chunksOf, stageChunks } from './chunks-from-mirrors.ts';
import type { Mirror } from './mirror-copy.ts';
import type { UnreadMirror } from './watched-mirrors.ts';

/** What was brought back, and what nobody has. */
export interface Restored {
  metadata: string[];
  files: string[];
  chunks: number;
  lost: { releases: DamagedRelease[]; files: string[] };
}

/** What a whole restoration found and did. */
export interface RestoredFrom extends Restored {
  /** Mirrors that were named. */
  asked: readonly string[];
  /** Those of them that could not be asked. */
  unread: UnreadMirror[];
}

/**
 * Brings back metadata files that are damaged or lost, so that the repository can be opened. Each is taken only if it's the very
 * file: by the hash that its referrer names, or by version and signatures where the referrer is lost as well. (A timestamp and a
 * snapshot aren't fetched: the origin signs them anew.)
 * @param mayBeNewer whether a root after the newest may be taken as well. With what a backup holds it doesn't fit: that is caught
 *   up with as a whole.
 * @returns the names of those that came back
 */
export async function restoreMetadata(
  files: Files,
  mirrors: readonly Mirror[],
  { mayBeNewer = true } = {},
): Promise<string[]> {
  const newest = await newestVersions(files);
  const restored = await restoreRoots(files, newest.get('root') ?? 0, { mirrors, mayBeNewer });
  const root = await readRoot(files, (await newestVersions(files)).get('root') ?? 0);
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
    const here = await readOrUndefined(files, `${METADATA}/${path}`, maxBytesOf(role));
    const found = here && isRight(here);
    if (found) return found;
    const fetched = await fetchRight(mirrors, path, maxBytesOf(role), isRight);
    if (!fetched) return undefined;
    await replace(files, `${METADATA}/${path}`, fetched.bytes);
    restored.push(path);
    return fetched;
  };
  const timestamp = await readOrUndefined(files, TIMESTAMP, maxBytesOf('timestamp'));
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
  files: Files;
  chunks: Chunks;
  log: Log;
}

/** Reads back all that is published, and brings back from mirrors what is damaged or lost. */
export async function restoreContent(
  deps: RestoreDeps,
  mirrors: readonly Mirror[],
): Promise<Omit<Restored, 'metadata'>> {
  const { repository, files, chunks } = deps;
  const survey = new Survey({ ...deps, republishRollouts: notHere });
  const { committed, damage } = repository;
  if (!committed) return { files: [], chunks: 0, lost: { releases: [], files: [] } };
  const restored: string[] = [];
  for (const file of publishedFiles(committed)) {
    if (await repository.content.read(file)) continue;
    const path = targetPath(file.name, file.sha256);
    const bytes = await fetchTarget(mirrors, path, file);
    if (!bytes) continue;
    await replace(files, file.path, bytes);
    restored.push(file.name);
  }
  const store = chunksOf(mirrors);
  for (const release of releasesOf(committed)) {
    const ids = await survey.chunksOf(release);
    await survey.inspect(ids);
    const lost = await chunks.unpublished(ids);
    if (countIds(lost) > 0) await stageChunks(chunks, lost, store);
  }
  const mended = await repository.mend();
  await survey.lookAtRoots(committed);
  for (const file of publishedFiles(committed)) await survey.lookAtFile(file);
  for (const release of releasesOf(committed)) await survey.lookAtRelease(release);
  const lost = { releases: damage.namedReleases(), files: damage.namedFiles() };
  return { files: [...restored, ...mended.files], chunks: mended.chunks, lost };
}

async function notHere(): Promise<void> {
  throw new SitecastError('failed', 'SITECAST_FILES_LOST', 'a rollouts file is lost, and no mirror has it');
}

/**
 * Each root is signed by the keys of the one before, so what is fetched must fit those beside it: again and again, as long as
 * one more comes back. The newest may be lost by its name, too: so it's asked for one more than is known of. The first root of all
 * has nothing before it: it's whoever started the fleet who has it, as `root.json`.
 */
async function restoreRoots(
  files: Files,
  newest: number,
  { mirrors, mayBeNewer }: { mirrors: readonly Mirror[]; mayBeNewer: boolean },
): Promise<string[]> {
  const restored: string[] = [];
  for (let before = -1; before < restored.length; ) {
    before = restored.length;
    for (let version = 1; version <= (mayBeNewer ? newest + restored.length + 1 : newest); version += 1) {
      if (await readRoot(files, version)) continue;
      const beside = {
        before: await readRoot(files, version - 1),
        next: await readRoot(files, version + 1),
      };
      const path = metadataPath('root', version);
      const fits = (bytes: Uint8Array) => fittingRoot(bytes, version, beside);
      const fetched = await fetchRight(mirrors, path, maxBytesOf('root'), fits);
      if (!fetched) continue;
      await replace(files, `${METADATA}/${path}`, fetched.bytes);
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
  // With nothing beside it that is right, nothing says whose it is.
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
 * From the first that has the very file.
 * @param onFailed told of each that was asked before and didn't give it; `gaveWrong` where it gave something else
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

/** A mirror that doesn't give it: the next one may. */
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

async function replace(files: Files, path: string, bytes: Uint8Array): Promise<void> {
  await setFileAside(files, path);
  await files.writeDurably(path, bytes);
}

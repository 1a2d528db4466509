import { ChunkIdSet, chunkIdToHex, eachId } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { type Metadata, targetPath } from '@sitecast/shared/trust';
import { PUBLISHED_CHUNKS, publishedFolder, stagedPath } from '../staging/chunk-paths.ts';
import type { Chunks } from '../staging/chunks.ts';
import { MAX_TARGET_FILE_BYTES, type StagedFiles } from '../staging/staged-files.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import { type ListedFile, targetFilePath } from './check-targets.ts';
import type { LeapNote } from './clock.ts';
import { type Committed, metadataFile, sha256Hex, TARGETS, TIMESTAMP } from './committed.ts';
import type { CommitJournal } from './journal.ts';
import { changedRoles, higherOf, onlineVersions, type VersionFloor } from './online-roles.ts';

/** A target file on its way from staging to its place in the repository. */
export interface NewTargetFile {
  sha256: string;
  /** Below the targets folder. */
  path: string;
  /** There where the origin made the file itself; else it lies in staging. */
  bytes?: Buffer;
}

/** One that lies in staging. */
export function newTargetFile(file: ListedFile): NewTargetFile {
  return { sha256: file.sha256, path: targetFilePath(file) };
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

/** All that one commit changes. */
export interface CommitPlan {
  previous: Committed | undefined;
  next: Committed;
  /** Roots between the previous one and the next, in order. */
  rootsBetween?: readonly Metadata<'root'>[];
  targetFiles: readonly NewTargetFile[];
  /** Whether rollout files that waited for a key are among them. */
  publishesDeferred?: boolean;
  /** Ids of the staged chunks that the new releases need, 32 bytes each, none twice. */
  chunks: Uint8Array;
  floor: VersionFloor;
  /** By how much the clock had leapt when the next timestamp was signed; undefined where others had signed it. */
  leap?: LeapNote | undefined;
}

export interface CommitDeps {
  files: Files;
  chunks: Chunks;
  staged: StagedFiles;
  journal: CommitJournal;
}

/**
 * Puts a change in place, all of it or nothing. The commit point is the rename of timestamp.json: before it nothing
 * that a client follows names any of the new files; after it everything is in place but a new root, which lies
 * durable in staging and only needs to be moved. To be followed by `journal.settle()`, however it ends: that
 * undoes what isn't committed and completes what is.
 */
export async function commit(
  { files, chunks, staged, journal }: CommitDeps,
  plan: CommitPlan,
): Promise<void> {
  const { previous, next, rootsBetween = [] } = plan;
  const changed = changedRoles(previous, next);
  const metadata = changed.filter(role => role !== 'root' && role !== 'timestamp');
  const targetFiles = await filesToWrite(files, plan.targetFiles);

  await syncStaged(files, plan.chunks);
  // Right bytes for a published chunk that was damaged: an improvement whatever becomes of the change.
  const repairs = await chunks.repairs(plan.chunks);
  await publishChunks(files, chunks, repairs);
  const moving = without(plan.chunks, repairs);

  await journal.begin({
    timestampSha256: sha256Hex(next.timestamp.bytes),
    newRoot: changed.includes('root')
      ? { version: next.root.signed.version, bytes: next.root.bytes }
      : undefined,
    created: [
      ...rootsBetween.map(({ signed }) => metadataFile('root', signed.version)),
      ...metadata.map(role => metadataFile(role, next[role].signed.version)),
      ...targetFiles.filter(({ isNew }) => isNew).map(({ path }) => `${TARGETS}/${path}`),
    ],
    chunks: moving,
    versions: higherOf(onlineVersions(next), plan.floor),
    leap: plan.leap,
  });
  await publishChunks(files, chunks, moving);
  for (const { sha256, path, bytes: given } of targetFiles) {
    const bytes = given ?? (await staged.read(sha256));
    if (bytes === undefined) throw stagedFileLost(sha256);
    await files.writeDurably(`${TARGETS}/${path}`, bytes);
  }
  for (const { signed, bytes } of rootsBetween)
    await files.writeDurably(metadataFile('root', signed.version), bytes);
  for (const role of metadata) {
    await files.writeDurably(metadataFile(role, next[role].signed.version), next[role].bytes);
  }
  await files.writeDurably(TIMESTAMP, next.timestamp.bytes);
}

/** Without those that are in place already: a product file whose earlier text comes back. */
async function filesToWrite(
  files: Files,
  wanted: readonly NewTargetFile[],
): Promise<(NewTargetFile & { isNew: boolean })[]> {
  const missing = [];
  for (const file of wanted) {
    const bytes = await readOrUndefined(files, `${TARGETS}/${file.path}`, MAX_TARGET_FILE_BYTES);
    if (bytes !== undefined && sha256Hex(bytes) === file.sha256) continue;
    missing.push({ ...file, isNew: bytes === undefined });
  }
  return missing;
}

/** Makes the bytes of staged chunks durable. */
export async function syncStaged(files: Files, ids: Uint8Array): Promise<void> {
  await files.syncAll([...eachId(ids)].map(id => stagedPath(chunkIdToHex(id))));
}

/** Moves chunks whose bytes are durable; when it returns, so are their new names. */
export async function publishChunks(files: Files, chunks: Chunks, ids: Uint8Array): Promise<void> {
  if (ids.length === 0) return;
  await chunks.publish(ids);
  const folders = new Set([...eachId(ids)].map(publishedFolder));
  await files.syncAll([...folders, PUBLISHED_CHUNKS]);
}

function without(ids: Uint8Array, others: Uint8Array): Uint8Array {
  if (others.length === 0) return ids;
  const left = new ChunkIdSet();
  for (const id of eachId(others)) left.add(id);
  return Buffer.concat([...eachId(ids)].filter(id => !left.has(id)));
}

function stagedFileLost(sha256: string): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_STAGING_DAMAGED',
    `the staged file ${sha256} was lost or altered`,
    {
      hint: 'Upload it again; look for a failing disk.',
      data: { sha256 },
    },
  );
}

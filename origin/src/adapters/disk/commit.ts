import { CHUNK_ID_BYTES, ChunkIdSet, eachId } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { parseMetadata } from '@sitecast/shared/trust';
import { z } from 'zod';
import { sha256Hex } from '../../repository/committed.ts';
import {
  type Commit,
  MAX_COMMIT_CHUNKS,
  MAX_TARGET_FILE_BYTES,
  type NewTarget,
  type Settled,
} from '../../repository/repository-store.ts';
import { maxBytesOf } from '../../repository/roles.ts';
import type { FileStaging } from '../../staging/ports.ts';
import { type LocalChunks, publishChunks, syncStaged } from './chunks.ts';
import { readOrUndefined } from './errors.ts';
import type { Files } from './files.ts';
import { METADATA, metadataFile, targetFile, TIMESTAMP } from './layout.ts';

const JOURNAL = 'staging/commit.json';
/** The ids of the chunks that move, 32 bytes each. */
const MOVED_CHUNKS = 'staging/commit.chunks';
const NEXT_ROOT = 'staging/commit.root.json';
const MAX_JOURNAL_BYTES = 4 * 1024 * 1024;

const journalSchema = z.object({
  format: z.literal('sitecast-commit-1'),
  /** `ended`: nothing is under way; what remains is the memory of the version numbers that are used up. */
  state: z.enum(['begun', 'ended']),
  /** SHA-256 of the new timestamp.json: if that's what is there, the commit has happened. */
  timestamp: z.string(),
  /** There if the change holds a new root. */
  rootVersion: z.int().exactOptional(),
  /** Files that come into being, relative to the data directory. */
  created: z.array(z.string()),
  /** Highest versions ever signed, of each of the origin's roles. */
  versions: z.object({ timestamp: z.int(), snapshot: z.int(), rollouts: z.int(), deltas: z.int() }),
  /** By how much the clock had leapt when that timestamp was signed; an earlier version doesn't say. */
  leap: z.object({ leaptMs: z.number(), issuedMs: z.number() }).exactOptional(),
});
type JournalFile = z.infer<typeof journalSchema>;

/**
 * Commits on a disk. The commit point is the rename of timestamp.json: before it nothing that a client follows names any of the
 * new files; after it everything is in place but a new root, which lies durable in staging and only needs to be moved.
 *
 * A journal says on the disk what a commit is about to do, so that it can be undone or completed whatever interrupts it. Version
 * numbers of undone attempts stay used up: between the timestamp's rename and the moment it is durable a client may have seen
 * them, and a number must never come back with other bytes.
 */
export class DiskCommits {
  readonly #files: Files;
  readonly #chunks: LocalChunks;
  readonly #staged: FileStaging;

  constructor(files: Files, chunks: LocalChunks, staged: FileStaging) {
    this.#files = files;
    this.#chunks = chunks;
    this.#staged = staged;
  }

  /** As `RepositoryStore.commit`. */
  async commit(commit: Commit): Promise<void> {
    const [files, chunks] = [this.#files, this.#chunks];
    const { metadata, timestamp } = commit;
    const targets = await this.#targetsToWrite(commit.targets);

    await syncStaged(files, commit.chunks);
    // Right bytes for a published chunk that was damaged improve matters, whatever becomes of the commit.
    const repairs = await chunks.repairs(commit.chunks);
    await publishChunks(files, chunks, repairs);
    const moving = without(commit.chunks, repairs);

    const created = [
      ...metadata.map(({ role, version }) => metadataFile(role, version)),
      ...targets.filter(({ isNew }) => isNew).map(targetFile),
    ];
    await this.#begin(commit, created, moving);
    await publishChunks(files, chunks, moving);
    for (const target of targets) {
      const bytes = target.bytes ?? (await this.#staged.read(target.sha256));
      if (bytes === undefined) throw stagedFileLost(target.sha256);
      await files.writeDurably(targetFile(target), bytes);
    }
    for (const { role, version, bytes } of metadata) {
      await files.writeDurably(metadataFile(role, version), bytes);
    }
    await files.writeDurably(TIMESTAMP, timestamp);
  }

  /** As `RepositoryStore.settle`. Ends a commit that went well, too. */
  async settle(): Promise<Settled> {
    const journal = await this.#read();
    if (journal?.state !== 'begun') {
      await this.#removeLeftovers();
      return {
        outcome: journal ? 'nothingUnderWay' : 'unknown',
        floor: journal?.versions,
        leap: journal?.leap,
      };
    }
    const isCommitted = await this.#isCommitted(journal);
    if (isCommitted) await this.#complete(journal);
    else await this.#undo(journal);
    await this.#write({ ...journal, state: 'ended', created: [] });
    await this.#removeLeftovers();
    return { outcome: isCommitted ? 'completed' : 'undone', floor: journal.versions, leap: journal.leap };
  }

  /**
   * Whether timestamp.json is the new one. One that the disk has damaged doesn't tell. It is written last, so a commit that lacks a file
   * wasn't done; one that lacks none counts as done: clients may have seen it, and all of it is there.
   */
  async #isCommitted({ timestamp: wanted, created }: JournalFile): Promise<boolean> {
    const bytes = await readOrUndefined(this.#files, TIMESTAMP, maxBytesOf('timestamp'));
    if (bytes && sha256Hex(bytes) === wanted) return true;
    const isDamaged = bytes ? !isTimestamp(bytes) : (await this.#files.lengthOf(TIMESTAMP)) !== undefined;
    if (!isDamaged) return false;
    for (const path of created) if ((await this.#files.lengthOf(path)) === undefined) return false;
    return true;
  }

  /** When it returns, whatever happens next can be undone or completed. */
  async #begin(
    { timestamp, newRoot, usedVersions, leap }: Commit,
    created: string[],
    moving: Uint8Array,
  ): Promise<void> {
    if (moving.length > 0) await this.#files.writeDurably(MOVED_CHUNKS, moving);
    if (newRoot) await this.#files.writeDurably(NEXT_ROOT, newRoot.bytes);
    await this.#write({
      format: 'sitecast-commit-1',
      state: 'begun',
      timestamp: sha256Hex(timestamp),
      ...(newRoot ? { rootVersion: newRoot.version } : {}),
      created,
      versions: usedVersions,
      ...(leap && { leap }),
    });
  }

  /** Without the files that are in place already, such as a product file whose earlier text comes back. */
  async #targetsToWrite(wanted: readonly NewTarget[]): Promise<(NewTarget & { isNew: boolean })[]> {
    const missing = [];
    for (const target of wanted) {
      const bytes = await readOrUndefined(this.#files, targetFile(target), MAX_TARGET_FILE_BYTES);
      if (bytes !== undefined && sha256Hex(bytes) === target.sha256) continue;
      missing.push({ ...target, isNew: bytes === undefined });
    }
    return missing;
  }

  async #complete({ rootVersion }: JournalFile): Promise<void> {
    if (rootVersion !== undefined && (await this.#files.lengthOf(NEXT_ROOT)) !== undefined) {
      await this.#files.move(NEXT_ROOT, metadataFile('root', rootVersion));
    }
    await this.#files.syncDirectory(METADATA);
  }

  async #undo({ created }: JournalFile): Promise<void> {
    for (const path of created) await this.#files.remove(path);
    // Where the list can't be read, chunks stay that nothing refers to.
    const ids = await readOrUndefined(this.#files, MOVED_CHUNKS, MAX_COMMIT_CHUNKS * CHUNK_ID_BYTES);
    if (ids) await this.#chunks.unpublish(ids);
    await this.#files.syncDirectory(METADATA);
  }

  async #removeLeftovers(): Promise<void> {
    await this.#files.remove(MOVED_CHUNKS);
    await this.#files.remove(NEXT_ROOT);
  }

  async #read(): Promise<JournalFile | undefined> {
    const bytes = await readOrUndefined(this.#files, JOURNAL, MAX_JOURNAL_BYTES);
    try {
      return bytes && journalSchema.parse(JSON.parse(bytes.toString('utf8')));
    } catch (cause) {
      // Files of a change that was under way do no harm. But a root that still had to be moved would be missed.
      if ((await this.#files.lengthOf(NEXT_ROOT)) === undefined) return undefined;
      throw new SitecastError('failed', 'SITECAST_REPOSITORY_DAMAGED', `${JOURNAL} can't be read`, {
        hint: 'It is written atomically: look for a failing disk, then bring the data directory back from a backup.',
        cause,
      });
    }
  }

  async #write(journal: JournalFile): Promise<void> {
    await this.#files.writeDurably(JOURNAL, Buffer.from(JSON.stringify(journal)));
  }
}

function isTimestamp(bytes: Buffer): boolean {
  try {
    parseMetadata(bytes, 'timestamp');
    return true;
  } catch (error) {
    if (error instanceof SitecastError) return false;
    throw error;
  }
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

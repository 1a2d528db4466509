import { CHUNK_ID_BYTES } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';
import type { Chunks } from '../staging/chunks.ts';
import type { Files } from '../storage/files.ts';
import { readOrUndefined } from '../storage/unreadable.ts';
import type { LeapNote } from './clock.ts';
import { maxBytesOf, METADATA, metadataFile, sha256Hex, TIMESTAMP } from './committed.ts';
import type { VersionFloor } from './online-roles.ts';

const JOURNAL = 'staging/commit.json';
/** The ids of the chunks that move, 32 bytes each. */
const MOVED_CHUNKS = 'staging/commit.chunks';
const NEXT_ROOT = 'staging/commit.root.json';
const MAX_JOURNAL_BYTES = 4 * 1024 * 1024;
/** New chunks that one change may bring in. */
export const MAX_CHANGE_CHUNKS = 2 * 1024 * 1024;

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

/** What a commit is about to do. */
export interface Intent {
  timestampSha256: string;
  newRoot: { version: number; bytes: Uint8Array } | undefined;
  created: string[];
  /** Ids of the chunks that move from staging to the repository, 32 bytes each. */
  chunks: Uint8Array;
  versions: VersionFloor;
  leap: LeapNote | undefined;
}

/** How the last commit ended. */
export interface Settled {
  outcome: 'nothingUnderWay' | 'undone' | 'completed' | 'unknown';
  /** Version numbers that were signed once and must not be given again; undefined where no journal says it any more. */
  floor: VersionFloor | undefined;
  leap: LeapNote | undefined;
}

/**
 * Says on the disk what a commit is about to do, so that it can be undone or completed whatever interrupts it. Version
 * numbers of undone attempts stay used up: between the timestamp's rename and the moment it's durable a client
 * may have seen them, and a number must never come back with other bytes.
 */
export class CommitJournal {
  readonly #files: Files;
  readonly #chunks: Chunks;

  constructor(files: Files, chunks: Chunks) {
    this.#files = files;
    this.#chunks = chunks;
  }

  /** When it returns, whatever happens next can be undone or completed. */
  async begin({ timestampSha256, newRoot, created, chunks, versions, leap }: Intent): Promise<void> {
    if (chunks.length > 0) await this.#files.writeDurably(MOVED_CHUNKS, chunks);
    if (newRoot) await this.#files.writeDurably(NEXT_ROOT, newRoot.bytes);
    await this.#write({
      format: 'sitecast-commit-1',
      state: 'begun',
      timestamp: timestampSha256,
      ...(newRoot ? { rootVersion: newRoot.version } : {}),
      created,
      versions,
      ...(leap && { leap }),
    });
  }

  /**
   * Brings what is under way to its end: where the new timestamp is in place, on to the new state, else back to the
   * old one. Ends a commit that went well, too. It can be interrupted itself, and called again.
   */
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
    const timestamp = await this.#files.read(TIMESTAMP, maxBytesOf('timestamp'));
    const isCommitted = timestamp !== undefined && sha256Hex(timestamp) === journal.timestamp;
    if (isCommitted) await this.#complete(journal);
    else await this.#undo(journal);
    await this.#write({ ...journal, state: 'ended', created: [] });
    await this.#removeLeftovers();
    return { outcome: isCommitted ? 'completed' : 'undone', floor: journal.versions, leap: journal.leap };
  }

  async #complete({ rootVersion }: JournalFile): Promise<void> {
    if (rootVersion !== undefined && (await this.#files.lengthOf(NEXT_ROOT)) !== undefined) {
      await this.#files.move(NEXT_ROOT, metadataFile('root', rootVersion));
    }
    await this.#files.syncDirectory(METADATA);
  }

  async #undo({ created }: JournalFile): Promise<void> {
    for (const path of created) await this.#files.remove(path);
    const ids = await this.#files.read(MOVED_CHUNKS, MAX_CHANGE_CHUNKS * CHUNK_ID_BYTES);
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
      // Files of a change that was under way are of no harm; a root that still had to be moved would be missed.
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

import {
  CHUNK_ID_BYTES,
  type ChunkId,
  ChunkIdSet,
  chunkIdToHex,
  chunkPath,
  eachId,
  MAX_CHUNK_BYTES,
  MAX_FRAME_BYTES,
  verifyFrame,
} from '@sitecast/shared/content';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { forEachBounded } from '../storage/concurrency.ts';
import type { Files } from '../storage/files.ts';
import { type StagingBudget, stagingFull } from './budget.ts';

const STAGED = 'staging/chunks';
const PUBLISHED = 'repository/chunks';
const ENDING = '.cacnk';
const STAGED_NAME = /^[0-9a-f]{64}\.cacnk$/;
/** Beyond it the map of staged chunks would take too much memory (about 250 bytes a chunk). */
export const MAX_STAGED_CHUNKS = 4 * 1024 * 1024;
/** Published chunks that this process remembers as verified; when it has seen more, it forgets all of them. */
const MAX_REMEMBERED_CHUNKS = 1024 * 1024;
const DISK_CONCURRENCY = 16;
/** Of node's four threads for file work two stay free for everything else while uploads are made durable. */
const BACKGROUND_SYNCS = 2;

interface StagedChunk {
  frameBytes: number;
  /** Of the plain chunk; 0 until this process has verified it. */
  plainBytes: number;
  isDurable: boolean;
  seenAtMs: number;
}

/** How a chunk that an index names was found. */
export type ChunkState = 'staged' | 'published' | 'missing' | 'wrongLength';

/**
 * The chunks that were uploaded and that nothing refers to yet (`staging/chunks`), and the look at those that are
 * published (`repository/chunks`). A staged chunk is written in one go under its own name; what a killed process left
 * half-written is found out when it's next asked for, because nothing that an earlier process staged counts before it
 * was verified again.
 */
export class StagedChunks {
  readonly #files: Files;
  readonly #budget: StagingBudget;
  readonly #now: () => number;
  readonly #staged = new Map<string, StagedChunk>();
  readonly #writing = new Map<string, Promise<'stored' | 'known'>>();
  /** Published ones whose bytes turned out wrong (a bad disk): missing, until they are uploaded again. */
  readonly #damaged = new Set<string>();
  #verified = new ChunkIdSet();
  readonly #scratch = Buffer.allocUnsafe(MAX_CHUNK_BYTES);
  readonly #toSync: string[] = [];
  #syncing = 0;

  private constructor(files: Files, budget: StagingBudget, now: () => number) {
    this.#files = files;
    this.#budget = budget;
    this.#now = now;
  }

  static async open(files: Files, budget: StagingBudget, now: () => number): Promise<StagedChunks> {
    const chunks = new StagedChunks(files, budget, now);
    for await (const { name, lengthBytes, modifiedMs } of files.list(STAGED)) {
      if (!STAGED_NAME.test(name)) {
        await files.remove(`${STAGED}/${name}`);
        continue;
      }
      budget.takeFound(lengthBytes);
      chunks.#staged.set(name.slice(0, -ENDING.length), unverified(lengthBytes, modifiedMs));
    }
    return chunks;
  }

  get count(): number {
    return this.#staged.size;
  }

  /** Those of the ids (32 bytes each) that are neither published nor staged, in their order. */
  async missing(ids: Uint8Array): Promise<Buffer> {
    const list = [...eachId(ids)];
    const isMissing = new Array<boolean>(list.length).fill(false);
    await forEachBounded(list.entries(), DISK_CONCURRENCY, async ([at, id]) => {
      isMissing[at] = !(await this.#isThere(id));
    });
    return Buffer.concat(list.filter((_id, at) => isMissing[at]));
  }

  /**
   * Verifies an uploaded chunk and stages it. The verification happens before this returns; `frame` must stay
   * unchanged until the promise settles.
   * @throws SITECAST_CHUNK_MISMATCH, SITECAST_STAGING_FULL, SITECAST_NO_SPACE
   */
  async stage(id: ChunkId, frame: Uint8Array): Promise<'stored' | 'known'> {
    const plainBytes = verifyFrame(id, frame, this.#scratch);
    const hex = chunkIdToHex(id);
    const staged = this.#staged.get(hex);
    if (staged !== undefined && staged.plainBytes > 0) {
      staged.seenAtMs = this.#now();
      return 'known';
    }
    const underWay = this.#writing.get(hex);
    if (underWay !== undefined) {
      await underWay;
      return 'known';
    }
    const writing = this.#write(id, hex, frame, plainBytes);
    this.#writing.set(hex, writing);
    try {
      return await writing;
    } finally {
      this.#writing.delete(hex);
    }
  }

  /**
   * Finds a chunk that an index names, and verifies it unless this process has done so already.
   * @param lengthBytes what the index says of the plain chunk
   */
  async check(id: ChunkId, lengthBytes: number): Promise<ChunkState> {
    const hex = chunkIdToHex(id);
    const stagedBytes = await this.#verifyStaged(id, hex);
    if (stagedBytes > 0) {
      if (!(await this.#isPublished(id, hex))) return stagedBytes === lengthBytes ? 'staged' : 'wrongLength';
      // Both: the published one may belong to a committed release, so it must never be a part of what is undone.
      await this.#discard(hex);
    }
    if (this.#damaged.has(hex)) return 'missing';
    const remembered = verifiedAs(id, lengthBytes);
    if (this.#verified.has(remembered)) return 'published';
    const frame = await this.#files.read(`${PUBLISHED}/${chunkPath(id)}`, MAX_FRAME_BYTES);
    if (frame === undefined) return 'missing';
    const plainBytes = this.#verifyOr(id, frame, () => this.#damaged.add(hex));
    if (plainBytes === 0) return 'missing';
    if (plainBytes !== lengthBytes) return 'wrongLength';
    this.#remember(remembered);
    return 'published';
  }

  /** When it returns, the bytes of these staged chunks survive a power cut (their names may not). */
  async makeDurable(ids: Iterable<ChunkId>): Promise<void> {
    await forEachBounded(ids, DISK_CONCURRENCY, async id => {
      const hex = chunkIdToHex(id);
      const staged = this.#staged.get(hex);
      if (staged && !staged.isDurable) await this.#sync(hex, staged);
    });
  }

  isStaged(id: ChunkId): boolean {
    return this.#staged.has(chunkIdToHex(id));
  }

  /** True for a staged chunk that is to replace a published one whose bytes are wrong. */
  isRepair(id: ChunkId): boolean {
    const hex = chunkIdToHex(id);
    return this.#damaged.has(hex) && this.#staged.has(hex);
  }

  /**
   * Moves staged chunks to where they are published; their bytes must be durable, the directories must be there.
   * The new names last once the directories are synced.
   */
  async publish(ids: Iterable<ChunkId>): Promise<void> {
    await forEachBounded(ids, DISK_CONCURRENCY, async id => {
      const hex = chunkIdToHex(id);
      const staged = this.#staged.get(hex);
      await this.#files.move(stagedPath(hex), `${PUBLISHED}/${chunkPath(id)}`);
      if (staged) {
        this.#drop(hex);
        this.#remember(verifiedAs(id, staged.plainBytes));
      }
      this.#damaged.delete(hex);
    });
  }

  /** Moves published chunks that no committed release came to refer to back to where they were. */
  async unpublish(ids: Iterable<ChunkId>): Promise<void> {
    await forEachBounded(ids, DISK_CONCURRENCY, async id => {
      const hex = chunkIdToHex(id);
      const lengthBytes = await this.#files.lengthOf(`${PUBLISHED}/${chunkPath(id)}`);
      if (lengthBytes === undefined) return;
      await this.#files.move(`${PUBLISHED}/${chunkPath(id)}`, stagedPath(hex));
      this.#drop(hex);
      this.#budget.takeFound(lengthBytes);
      this.#staged.set(hex, unverified(lengthBytes, this.#now()));
    });
    this.#verified = new ChunkIdSet();
  }

  /** Deletes what was staged, or last asked for, before `beforeMs`. */
  async removeOlderThan(beforeMs: number): Promise<number> {
    const old = [...this.#staged].filter(([, { seenAtMs }]) => seenAtMs < beforeMs);
    for (const [hex] of old) await this.#discard(hex);
    return old.length;
  }

  async #isThere(id: ChunkId): Promise<boolean> {
    const hex = chunkIdToHex(id);
    return (await this.#verifyStaged(id, hex)) > 0 || (await this.#isPublished(id, hex));
  }

  async #isPublished(id: ChunkId, hex: string): Promise<boolean> {
    if (this.#damaged.has(hex)) return false;
    return ((await this.#files.lengthOf(`${PUBLISHED}/${chunkPath(id)}`)) ?? 0) > 0;
  }

  /** Length of the plain staged chunk; 0 where there's none, or there was one that is wrong: then it's gone. */
  async #verifyStaged(id: ChunkId, hex: string): Promise<number> {
    await this.#writing.get(hex)?.catch(() => undefined);
    const staged = this.#staged.get(hex);
    if (!staged) return 0;
    staged.seenAtMs = this.#now();
    if (staged.plainBytes > 0) return staged.plainBytes;
    const frame = await this.#readStaged(hex);
    // Replaced by an upload while it was read: the new one is looked at instead.
    if (this.#staged.get(hex) !== staged) return await this.#verifyStaged(id, hex);
    staged.plainBytes = frame === undefined ? 0 : this.#verifyOr(id, frame, () => {});
    if (staged.plainBytes === 0) await this.#discard(hex);
    return staged.plainBytes;
  }

  async #readStaged(hex: string): Promise<Buffer | undefined> {
    try {
      return await this.#files.read(stagedPath(hex), MAX_FRAME_BYTES);
    } catch (error) {
      // Nothing that this origin wrote is so large: as good as wrong bytes.
      if (error instanceof SitecastError && error.code === 'SITECAST_FILE_TOO_LARGE') return undefined;
      throw error;
    }
  }

  #verifyOr(id: ChunkId, frame: Uint8Array, onWrong: () => void): number {
    try {
      return verifyFrame(id, frame, this.#scratch);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      onWrong();
      return 0;
    }
  }

  async #write(id: ChunkId, hex: string, frame: Uint8Array, plainBytes: number): Promise<'stored' | 'known'> {
    if (await this.#isPublished(id, hex)) return 'known';
    // Left by an earlier process and not verified since: the new bytes replace it.
    if (this.#staged.has(hex)) await this.#discard(hex);
    if (this.#staged.size + this.#writing.size > MAX_STAGED_CHUNKS)
      throw stagingFull(`${MAX_STAGED_CHUNKS} chunks`);
    this.#budget.take(frame.length);
    try {
      await this.#createAnew(hex, frame);
    } catch (error) {
      this.#budget.giveBack(frame.length);
      throw error;
    }
    this.#staged.set(hex, {
      frameBytes: frame.length,
      plainBytes,
      isDurable: false,
      seenAtMs: this.#now(),
    });
    this.#syncLater(hex);
    return 'stored';
  }

  async #createAnew(hex: string, frame: Uint8Array): Promise<void> {
    try {
      await this.#files.create(stagedPath(hex), frame);
    } catch (error) {
      if (!isSystemError(error, 'EEXIST')) throw error;
      await this.#files.remove(stagedPath(hex));
      await this.#files.create(stagedPath(hex), frame);
    }
  }

  /** Begins to make uploads durable while more of them come in, so that the commit needn't wait for the disk. */
  #syncLater(hex: string): void {
    this.#toSync.push(hex);
    if (this.#syncing >= BACKGROUND_SYNCS) return;
    this.#syncing += 1;
    void this.#syncQueued();
  }

  async #syncQueued(): Promise<void> {
    for (;;) {
      const hex = this.#toSync.pop();
      if (hex === undefined) break;
      const staged = this.#staged.get(hex);
      // The commit syncs again what isn't marked as durable, and reports what goes wrong there.
      if (staged && !staged.isDurable) await this.#sync(hex, staged).catch(() => undefined);
    }
    this.#syncing -= 1;
  }

  async #sync(hex: string, staged: StagedChunk): Promise<void> {
    await this.#files.sync(stagedPath(hex));
    staged.isDurable = true;
  }

  #drop(hex: string): void {
    const staged = this.#staged.get(hex);
    if (!staged) return;
    this.#staged.delete(hex);
    this.#budget.giveBack(staged.frameBytes);
  }

  async #discard(hex: string): Promise<void> {
    this.#drop(hex);
    await this.#files.remove(stagedPath(hex));
  }

  #remember(id: ChunkId): void {
    if (this.#verified.size >= MAX_REMEMBERED_CHUNKS) this.#verified = new ChunkIdSet();
    this.#verified.add(id);
  }
}

/** What was found on the disk: nothing is known of it but its length. */
function unverified(frameBytes: number, seenAtMs: number): StagedChunk {
  return { frameBytes, plainBytes: 0, isDurable: false, seenAtMs };
}

function stagedPath(hex: string): string {
  return `${STAGED}/${hex}${ENDING}`;
}

/** What `#verified` remembers: that the chunk is right and of this length, folded into the 32 bytes of an id. */
function verifiedAs(id: ChunkId, lengthBytes: number): ChunkId {
  const folded = Buffer.allocUnsafe(CHUNK_ID_BYTES);
  folded.set(id);
  folded.writeUInt32LE((folded.readUInt32LE(0) ^ lengthBytes) >>> 0, 0);
  return folded;
}

import { ByteBudget } from '@sitecast/shared/bounded';
import {
  type BatchEntry,
  CHUNK_ID_BYTES,
  type ChunkId,
  chunkIdFromHex,
  ChunkIdSet,
  chunkIdToHex,
  decodeBatch,
  eachId,
  MAX_CHUNK_BYTES,
  MAX_FRAME_BYTES,
  verifyFrame,
} from '@sitecast/shared/content';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Inspection } from '../../repository/repository-store.ts';
import type { ChunkList, ChunkState, StagedTotals } from '../../staging/ports.ts';
import { stagingFull } from './errors.ts';
import type { SyncFiles } from './files.ts';
import {
  chunkHexOf,
  DAMAGED_CHUNKS,
  damagedPath,
  LAST_PUBLISHED,
  publishedFolder,
  publishedPath,
  STAGED_CHUNKS,
  stagedPath,
} from './layout.ts';

/** Beyond it the map of staged chunks would take too much memory (about 250 bytes a chunk). */
const MAX_STAGED_CHUNKS = 4 * 1024 * 1024;
/** Published chunks that this process remembers as verified; when it has seen more, it forgets all of them. */
const MAX_REMEMBERED_CHUNKS = 1024 * 1024;

/** Beyond it the disk or the memory of this machine is failing, and setting more chunks aside would do more harm. */
const MAX_DAMAGED_CHUNKS = 10_000;

/** A published chunk that uploads ask for again and again is noted so often. */
const CLAIM_EVERY_MS = 60_000;

interface StagedChunk {
  frameBytes: number;
  /** Of the plain chunk; 0 until this process has verified it. */
  plainBytes: number;
  seenAtMs: number;
}

/**
 * Does the work on chunks, in a thread that may wait for the disk. A staged chunk is written in one go under its own name. A
 * chunk that a killed process left half-written is found out when it is next asked for, because nothing that an earlier process
 * staged counts before it was verified again.
 */
export class ChunkWorker {
  readonly #files: SyncFiles;
  readonly #budget: ByteBudget;
  readonly #now: () => number;
  readonly #staged = new Map<string, StagedChunk>();
  /** Published chunks whose bytes turned out wrong: they are set aside, and missing until they are uploaded again. */
  readonly #damaged = new Set<string>();
  readonly #folders = new Set<string>();
  #verified = new ChunkIdSet();
  readonly #scratch = Buffer.allocUnsafe(MAX_CHUNK_BYTES);

  constructor(files: SyncFiles, maxBytes: number, now: () => number) {
    this.#files = files;
    this.#budget = new ByteBudget(maxBytes);
    this.#now = now;
    for (const { name, lengthBytes, modifiedMs } of files.list(STAGED_CHUNKS)) {
      const hex = chunkHexOf(name);
      if (hex === undefined) files.remove(`${STAGED_CHUNKS}/${name}`);
      else this.#addFound(hex, lengthBytes, modifiedMs);
    }
    for (const { name } of files.list(DAMAGED_CHUNKS)) {
      const hex = chunkHexOf(name);
      if (hex === undefined) continue;
      // If its place isn't empty, it was brought back, and the process was killed before it could forget it.
      if (files.lengthOf(publishedPath(chunkIdFromHex(hex))) === undefined) this.#damaged.add(hex);
      else this.#forget(hex);
    }
  }

  totals(): StagedTotals {
    return { chunks: this.#staged.size, bytes: this.#budget.usedBytes };
  }

  missing(ids: Uint8Array): Uint8Array {
    return Buffer.concat([...eachId(ids)].filter(id => !this.#isThere(id)));
  }

  unpublished(ids: Uint8Array): Uint8Array {
    return Buffer.concat([...eachId(ids)].filter(id => !this.#isPublished(id, chunkIdToHex(id))));
  }

  inspect(ids: Uint8Array): Inspection {
    const damaged: ChunkId[] = [];
    let readBytes = 0;
    for (const id of eachId(ids)) {
      const hex = chunkIdToHex(id);
      if (this.#damaged.has(hex)) continue;
      const found = this.#readPublished(id, hex);
      readBytes += found?.frameBytes ?? 0;
      if (found?.plainBytes === 0) damaged.push(id);
    }
    return { readBytes, damaged: Buffer.concat(damaged) };
  }

  /**
   * @param count counts what is stored and what was known, even if a later entry is refused
   * @throws SITECAST_BATCH_…, SITECAST_CHUNK_MISMATCH, SITECAST_STAGING_FULL, SITECAST_NO_SPACE
   */
  stage(batch: Uint8Array, count: { stored: number; known: number }): void {
    for (const entry of decodeBatch(batch)) count[this.#stageOne(entry)] += 1;
  }

  check({ ids, lengths }: ChunkList): ChunkState[] {
    return [...eachId(ids)].map((id, at) => this.#checkOne(id, lengths[at] ?? 0));
  }

  repairs(ids: Uint8Array): Uint8Array {
    return Buffer.concat(
      [...eachId(ids)].filter(id => {
        const hex = chunkIdToHex(id);
        return this.#damaged.has(hex) && this.#staged.has(hex);
      }),
    );
  }

  publish(ids: Uint8Array): void {
    for (const id of eachId(ids)) {
      const hex = chunkIdToHex(id);
      const staged = this.#staged.get(hex);
      this.#makeFolder(publishedFolder(id));
      // From now on it counts as asked for: see `removeUnused`.
      this.#files.touch(stagedPath(hex), this.#now());
      this.#files.move(stagedPath(hex), publishedPath(id));
      if (this.#damaged.delete(hex)) this.#forget(hex);
      this.#drop(hex);
      if (staged && staged.plainBytes > 0) this.#remember(verifiedAs(id, staged.plainBytes));
    }
    this.#files.write(LAST_PUBLISHED, Buffer.from(new Date(this.#now()).toISOString()));
  }

  unpublish(ids: Uint8Array): void {
    this.#verified = new ChunkIdSet();
    for (const id of eachId(ids)) {
      const hex = chunkIdToHex(id);
      const lengthBytes = this.#files.lengthOf(publishedPath(id));
      if (lengthBytes === undefined) continue;
      this.#files.move(publishedPath(id), stagedPath(hex));
      this.#drop(hex);
      this.#addFound(hex, lengthBytes, this.#now());
    }
  }

  removeUnused(ids: Uint8Array, beforeMs: number): number {
    this.#verified = new ChunkIdSet();
    let removed = 0;
    for (const id of eachId(ids)) {
      const modifiedMs = this.#files.modifiedMs(publishedPath(id));
      if (modifiedMs === undefined || modifiedMs >= beforeMs) continue;
      this.#files.remove(publishedPath(id));
      removed += 1;
    }
    return removed;
  }

  prune(beforeMs: number): number {
    const old = [...this.#staged].filter(([, { seenAtMs }]) => seenAtMs < beforeMs);
    for (const [hex] of old) this.#discard(hex);
    return old.length;
  }

  #stageOne({ id, frame }: BatchEntry): 'stored' | 'known' {
    const plainBytes = verifyFrame(id, frame, this.#scratch);
    const hex = chunkIdToHex(id);
    const staged = this.#staged.get(hex);
    if (staged !== undefined && staged.plainBytes > 0) {
      staged.seenAtMs = this.#now();
      return 'known';
    }
    if (this.#isInUse(id, hex)) return 'known';
    // An earlier process left it, and it wasn't verified since: the new bytes replace it.
    this.#drop(hex);
    if (this.#staged.size >= MAX_STAGED_CHUNKS) throw stagingFull(`${MAX_STAGED_CHUNKS} chunks`);
    if (!this.#budget.tryTake(frame.length)) throw stagingFull(`${this.#budget.maxBytes} bytes`);
    try {
      this.#files.write(stagedPath(hex), frame);
    } catch (error) {
      this.#budget.giveBack(frame.length);
      throw error;
    }
    this.#staged.set(hex, { frameBytes: frame.length, plainBytes, seenAtMs: this.#now() });
    return 'stored';
  }

  #checkOne(id: ChunkId, lengthBytes: number): ChunkState {
    const hex = chunkIdToHex(id);
    const stagedBytes = this.#verifyStaged(id, hex);
    if (stagedBytes > 0) {
      if (!this.#isPublished(id, hex)) return stagedBytes === lengthBytes ? 'staged' : 'wrongLength';
      // It is both. The published one may belong to a committed release, so no undone commit may take it away.
      this.#discard(hex);
    }
    if (this.#damaged.has(hex)) return 'missing';
    if (this.#verified.has(verifiedAs(id, lengthBytes))) return 'published';
    const found = this.#readPublished(id, hex);
    if (found === undefined || found.plainBytes === 0) return 'missing';
    this.#remember(verifiedAs(id, found.plainBytes));
    return found.plainBytes === lengthBytes ? 'published' : 'wrongLength';
  }

  /** @returns undefined if it isn't there; 0 plain bytes if it was wrong: then it is set aside */
  #readPublished(id: ChunkId, hex: string): { frameBytes: number; plainBytes: number } | undefined {
    const path = publishedPath(id);
    // It is read twice before it counts as damaged: the bytes may have been spoilt on their way from the disk.
    for (let isAgain = false; ; isAgain = true) {
      const frame = this.#readBounded(path);
      if (frame === undefined) return undefined;
      const plainBytes = this.#plainBytesOf(id, frame);
      if (plainBytes === 0 && !isAgain) continue;
      if (plainBytes === 0) this.#setAside(path, hex);
      return { frameBytes: frame.length, plainBytes };
    }
  }

  #forget(hex: string): void {
    try {
      this.#files.remove(damagedPath(hex));
    } catch (error) {
      // A copy that stays just takes room.
      if (!isSystemError(error)) throw error;
    }
  }

  #setAside(path: string, hex: string): void {
    if (this.#damaged.size >= MAX_DAMAGED_CHUNKS) throw tooMuchDamage();
    // Its length isn't known, so all chunks are forgotten: they are verified again when they are next asked for.
    this.#verified = new ChunkIdSet();
    this.#damaged.add(hex);
    try {
      this.#files.move(path, damagedPath(hex));
    } catch (error) {
      // The disk can't be written to. This process knows all the same that the chunk is damaged.
      if (!isSystemError(error) && !(error instanceof SitecastError)) throw error;
    }
  }

  #isThere(id: ChunkId): boolean {
    const hex = chunkIdToHex(id);
    return this.#verifyStaged(id, hex) > 0 || this.#isInUse(id, hex);
  }

  /** Whether a chunk is published. Then it is claimed for the upload that asks: `removeUnused` leaves it for as long as a staged one stays. */
  #isInUse(id: ChunkId, hex: string): boolean {
    if (!this.#isPublished(id, hex)) return false;
    const path = publishedPath(id);
    const nowMs = this.#now();
    try {
      if (nowMs - (this.#files.modifiedMs(path) ?? 0) > CLAIM_EVERY_MS) this.#files.touch(path, nowMs);
    } catch (error) {
      // A disk that can't be written to: nothing is deleted there either.
      if (!isSystemError(error) && !(error instanceof SitecastError)) throw error;
    }
    return true;
  }

  #isPublished(id: ChunkId, hex: string): boolean {
    return !this.#damaged.has(hex) && (this.#files.lengthOf(publishedPath(id)) ?? 0) > 0;
  }

  /** Length of the plain staged chunk; 0 if there is none, or if it was wrong: then it is deleted. */
  #verifyStaged(id: ChunkId, hex: string): number {
    const staged = this.#staged.get(hex);
    if (!staged) return 0;
    staged.seenAtMs = this.#now();
    if (staged.plainBytes > 0) return staged.plainBytes;
    const frame = this.#readBounded(stagedPath(hex));
    staged.plainBytes = frame === undefined ? 0 : this.#plainBytesOf(id, frame);
    if (staged.plainBytes === 0) this.#discard(hex);
    return staged.plainBytes;
  }

  #readBounded(path: string): Buffer | undefined {
    try {
      return this.#files.read(path, MAX_FRAME_BYTES);
    } catch (error) {
      // Nothing that this origin wrote is so large, or unreadable. It counts as wrong bytes, which `#plainBytesOf` notices.
      if (error instanceof SitecastError && error.code === 'SITECAST_FILE_TOO_LARGE') return Buffer.alloc(0);
      if (isSystemError(error, 'EIO', 'EISDIR')) return Buffer.alloc(0);
      throw error;
    }
  }

  /** Length of the plain bytes; 0 if the frame isn't that of the chunk. */
  #plainBytesOf(id: ChunkId, frame: Uint8Array): number {
    try {
      return verifyFrame(id, frame, this.#scratch);
    } catch (error) {
      if (error instanceof SitecastError && error.code === 'SITECAST_CHUNK_MISMATCH') return 0;
      throw error;
    }
  }

  #makeFolder(folder: string): void {
    if (this.#folders.has(folder)) return;
    this.#files.makeDirectory(folder);
    this.#folders.add(folder);
  }

  #addFound(hex: string, frameBytes: number, seenAtMs: number): void {
    this.#budget.takeAnyway(frameBytes);
    this.#staged.set(hex, { frameBytes, plainBytes: 0, seenAtMs });
  }

  #drop(hex: string): void {
    const staged = this.#staged.get(hex);
    if (!staged) return;
    this.#staged.delete(hex);
    this.#budget.giveBack(staged.frameBytes);
  }

  #discard(hex: string): void {
    this.#drop(hex);
    this.#files.remove(stagedPath(hex));
  }

  #remember(id: ChunkId): void {
    if (this.#verified.size >= MAX_REMEMBERED_CHUNKS) this.#verified = new ChunkIdSet();
    this.#verified.add(id);
  }
}

function tooMuchDamage(): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_TOO_MUCH_DAMAGE',
    `${MAX_DAMAGED_CHUNKS} published chunks are damaged: no more are set aside`,
    { hint: 'Look for a failing disk or memory; then bring the data directory back from a backup.' },
  );
}

/** What `#verified` remembers: that the chunk is right and of this length, folded into the 32 bytes of an id. */
function verifiedAs(id: ChunkId, lengthBytes: number): ChunkId {
  const folded = Buffer.allocUnsafe(CHUNK_ID_BYTES);
  folded.set(id);
  folded.writeUInt32LE((folded.readUInt32LE(0) ^ lengthBytes) >>> 0, 0);
  return folded;
}

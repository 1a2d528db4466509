import { lruCache } from '@sitecast/shared/bounded';
import {
  Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdFromHex,
  chunkIdToHex,
  chunkNotFound,
  MAX_CHUNK_BYTES,
  verifyFrame,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { type Change, type KeyValueStore, startingWith } from '@sitecast/shared/key-value';
import pLimit from 'p-limit';
import type { Log } from '@sitecast/shared/log';

/** How many files are remembered as recently verified and unchanged since. Others are verified when they are read. */
const MAX_VERIFIED = 200_000;
/**
 * A disk may damage bytes without a change of the file's times. After this time a chunk is verified again, so devices that ask again get
 * the right bytes.
 */
const BELIEVED_MS = 60_000;
/** How long nothing is cached after the disk was full, or when rollouts needed everything that is cached. */
const FULL_PAUSE_MS = 10_000;
/** Eviction frees this share of the cache more than is needed, so that it does not run for every chunk. */
const HEADROOM = 0.01;
/** Uses are written in batches; beyond the bound they are not noted. */
const MAX_PENDING_USES = 4096;
const USES_PER_WRITE = 256;
/** A use is saved at most once in this time, which is the precision of the order of eviction. */
const NOTED_FOR_MS = 60_000;
const MAX_NOTED = 32_768;

/** A frame as read from the disk, and a stamp that shows whether its file is unchanged. */
export interface StoredFrame {
  frame: Buffer;
  /** Inode, length and time of change. */
  stamp: string;
}

/** The files of the chunk cache. Nothing read from them is trusted. Errors: SITECAST_NO_SPACE for a full disk. */
export interface FrameFiles {
  /** Undefined where there is no file; an empty frame for a file that cannot be read or is too long. */
  read(id: ChunkId): Promise<StoredFrame | undefined>;
  /** As `read`, without a turn of the event loop: for a file that was read a short while ago, so that the page cache has it. */
  readNow(id: ChunkId): StoredFrame | undefined;
  /** @returns the file's stamp; undefined where there was a file, which stays as it is */
  write(id: ChunkId, frame: Uint8Array): Promise<string | undefined>;
  remove(id: ChunkId): Promise<void>;
  /** All files with their lengths. A file that disappears meanwhile is skipped. */
  list(): AsyncIterable<{ id: ChunkId; lengthBytes: number }>;
  /** Free bytes of the file system, for this user. */
  freeBytes(): Promise<number>;
}

interface DiskCacheDeps {
  files: FrameFiles;
  records: KeyValueStore;
  isPinned: (id: ChunkId) => boolean;
  maxBytes: number;
  /** Free space that the cache leaves on the file system. */
  reserveBytes: number;
  now: () => number;
  log: Log;
}

/** A file that held the right frame. */
interface Verified {
  stamp: string;
  atMs: number;
}

interface Entry {
  lengthBytes: number;
  usedMs: number;
}

/**
 * Frames on the disk, up to a number of bytes. The least recently used are evicted first, those of rollouts under way never. A frame is
 * verified against its id at its first read in a process, again whenever its file has changed, and again after a minute.
 *
 * Records: `c:ID` → [length, last use], and `u:LAST USE:ID` → length, to go through them in the order of their use.
 * A file without a record (the process was killed between the two) gets one by `adopt`. A record without a file is
 * noticed when the chunk is read.
 */
export class DiskCache implements ChunkStore {
  readonly name = 'the disk of this gateway';
  readonly #deps: DiskCacheDeps;
  readonly #verified = lruCache<string, Verified>({ max: MAX_VERIFIED });
  readonly #scratch = Buffer.allocUnsafeSlow(MAX_CHUNK_BYTES);
  readonly #turn = pLimit(1);
  #uses = new Map<string, number>();
  /** Chunks whose last use was saved recently. */
  readonly #noted = new Set<string>();
  #notedSinceMs = 0;
  #usedBytes = 0;
  #count = 0;
  #fullUntilMs = 0;
  damaged = 0;

  private constructor(deps: DiskCacheDeps) {
    this.#deps = deps;
  }

  static async open(deps: DiskCacheDeps): Promise<DiskCache> {
    const cache = new DiskCache(deps);
    for await (const [, value] of deps.records.entries(startingWith('c:'))) {
      cache.#usedBytes += entryOf(value)?.lengthBytes ?? 0;
      cache.#count += 1;
    }
    return cache;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }
  get count(): number {
    return this.#count;
  }
  /** True while nothing is cached because there is no space. */
  get isFull(): boolean {
    return this.#deps.now() < this.#fullUntilMs;
  }

  /** Whether a record says so; the frame itself is checked when it is read. */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return (await this.#deps.records.get(`c:${chunkIdToHex(id)}`)) !== undefined;
  }

  /** The chunk, read and verified. A damaged file counts as none, and is deleted. */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const hex = chunkIdToHex(id);
    const found = await this.#deps.files.read(id);
    if (!found) throw chunkNotFound(id, this);
    if (!this.#isRight(id, found.frame)) {
      this.damaged += 1;
      this.#deps.log.warn({ chunk: hex }, 'a cached chunk is damaged; it is deleted');
      await this.#turn(() => this.#drop(id));
      throw chunkNotFound(id, this);
    }
    this.#noteVerified(hex, found.stamp);
    this.use(hex);
    return Chunk.fromFrame(id, found.frame);
  }

  /**
   * The frame, without a turn of the event loop, if this process has verified its file within a minute and the file is unchanged: it
   * usually is in the page cache, and waiting for the thread pool would cost several times as much as reading it. It isn't verified again,
   * so it may be sent, but not kept.
   */
  frame(id: ChunkId, hex: string): Buffer | undefined {
    const verified = this.#verified.get(hex);
    if (!verified || Math.abs(this.#deps.now() - verified.atMs) >= BELIEVED_MS) return undefined;
    const found = this.#deps.files.readNow(id);
    if (found?.stamp !== verified.stamp) return undefined;
    this.use(hex);
    return found.frame;
  }

  #noteVerified(hex: string, stamp: string): void {
    this.#verified.set(hex, { stamp, atMs: this.#deps.now() });
  }

  /** Notes that a chunk was used just now. */
  use(hex: string): void {
    if (this.#noted.has(hex)) return;
    if (this.#uses.size < MAX_PENDING_USES) this.#uses.set(hex, this.#deps.now());
  }

  /**
   * Keeps a chunk that the caller has verified, if there is room.
   * @returns false where there is no room; nothing is thrown for that
   */
  async put(chunk: Chunk): Promise<boolean> {
    if (this.isFull) return false;
    const { id } = chunk;
    const frame = chunk.frame();
    return this.#turn(async () => {
      try {
        if (!(await this.#makeRoom(frame.length))) {
          this.#pauseCaching('the chunk cache is full of what rollouts need, or the disk is');
          return false;
        }
        const stamp = await this.#deps.files.write(id, frame);
        if (stamp !== undefined) this.#noteVerified(chunkIdToHex(id), stamp);
        await this.#record(id, frame.length);
        return true;
      } catch (error) {
        const isFull = error instanceof SitecastError && error.kind === 'noSpace';
        if (!isFull) this.#deps.log.error({ err: error }, 'a chunk could not be cached');
        this.#pauseCaching(isFull ? error.message : 'the cache cannot be written');
        await this.#deps.files.remove(id);
        return false;
      }
    });
  }

  /** Saves which chunks were used, for the order of eviction: a frequently used chunk at most once a minute. */
  async flush(): Promise<void> {
    const uses = [...this.#uses];
    this.#uses = new Map();
    const nowMs = this.#deps.now();
    if (Math.abs(nowMs - this.#notedSinceMs) >= NOTED_FOR_MS) {
      this.#noted.clear();
      this.#notedSinceMs = nowMs;
    }
    for (const [hex] of uses) if (this.#noted.size < MAX_NOTED) this.#noted.add(hex);
    for (let at = 0; at < uses.length; at += USES_PER_WRITE) {
      await this.#turn(() => this.#touch(uses.slice(at, at + USES_PER_WRITE)));
    }
  }

  /** Adds records for files that have none. To be called once, after the start. */
  async adopt(signal: AbortSignal): Promise<number> {
    let adopted = 0;
    for await (const { id, lengthBytes } of this.#deps.files.list()) {
      if (signal.aborted) break;
      if ((await this.#deps.records.get(`c:${chunkIdToHex(id)}`)) !== undefined) continue;
      await this.#turn(() => this.#record(id, lengthBytes));
      adopted += 1;
    }
    return adopted;
  }

  #isRight(id: ChunkId, frame: Uint8Array): boolean {
    try {
      verifyFrame(id, frame, this.#scratch);
      return true;
    } catch (error) {
      if (error instanceof SitecastError) return false;
      throw error;
    }
  }

  async #makeRoom(lengthBytes: number): Promise<boolean> {
    const { files, maxBytes, reserveBytes } = this.#deps;
    const freeBytes = await files.freeBytes();
    const limitBytes = Math.min(maxBytes, this.#usedBytes + freeBytes - reserveBytes);
    if (this.#usedBytes + lengthBytes <= limitBytes) return true;
    await this.#evictTo(limitBytes - lengthBytes - Math.floor(limitBytes * HEADROOM));
    return this.#usedBytes + lengthBytes <= limitBytes;
  }

  async #evictTo(goalBytes: number): Promise<void> {
    const { records, isPinned, now } = this.#deps;
    const uses = new Map(this.#uses);
    const kept: [string, number][] = [];
    for await (const [key] of records.entries(startingWith('u:'))) {
      if (this.#usedBytes <= goalBytes) break;
      const hex = key.slice(key.lastIndexOf(':') + 1);
      const id = chunkIdFromHex(hex);
      // They go to the end, so that the next eviction does not look at them first.
      if (isPinned(id)) kept.push([hex, now()]);
      else if (uses.has(hex)) kept.push([hex, uses.get(hex) ?? 0]);
      else await this.#drop(id);
      uses.delete(hex);
    }
    await this.#touch(kept);
    for (const [hex] of kept) {
      if (this.#usedBytes <= goalBytes) break;
      // It was used a moment ago, but nothing else is left to evict.
      if (!isPinned(chunkIdFromHex(hex))) await this.#drop(chunkIdFromHex(hex));
    }
  }

  async #record(id: ChunkId, lengthBytes: number): Promise<void> {
    const hex = chunkIdToHex(id);
    const before = entryOf(await this.#deps.records.get(`c:${hex}`));
    const changes = [
      ...removalOf(hex, before),
      ...entryChanges(hex, { lengthBytes, usedMs: this.#deps.now() }),
    ];
    await this.#deps.records.commit(changes, { isDurable: false });
    this.#usedBytes += lengthBytes - (before?.lengthBytes ?? 0);
    if (!before) this.#count += 1;
  }

  // The record is removed first: if the process is killed in between, `adopt` finds the file.
  async #drop(id: ChunkId): Promise<void> {
    const { records, files } = this.#deps;
    const hex = chunkIdToHex(id);
    const entry = entryOf(await records.get(`c:${hex}`));
    if (entry)
      await records.commit([{ key: `c:${hex}`, value: undefined }, ...removalOf(hex, entry)], {
        isDurable: false,
      });
    await files.remove(id);
    this.#verified.delete(hex);
    if (!entry) return;
    this.#usedBytes -= entry.lengthBytes;
    this.#count -= 1;
  }

  async #touch(uses: readonly [hex: string, usedMs: number][]): Promise<void> {
    const changes: Change[] = [];
    for (const [hex, usedMs] of uses) {
      const entry = entryOf(await this.#deps.records.get(`c:${hex}`));
      if (entry) changes.push(...removalOf(hex, entry), ...entryChanges(hex, { ...entry, usedMs }));
    }
    try {
      await this.#deps.records.commit(changes, { isDurable: false });
    } catch (error) {
      // Only the order of eviction is a little older without it.
      if (!(error instanceof SitecastError) || error.kind !== 'noSpace') throw error;
    }
  }

  #pauseCaching(why: string): void {
    const { now, log, maxBytes } = this.#deps;
    this.#fullUntilMs = now() + FULL_PAUSE_MS;
    log.warn({ usedBytes: this.#usedBytes, maxBytes }, `${why}: chunks are served without being cached`);
  }
}

function entryOf(value: unknown): Entry | undefined {
  if (!Array.isArray(value)) return undefined;
  const [lengthBytes, usedMs]: unknown[] = value;
  return typeof lengthBytes === 'number' && typeof usedMs === 'number' ? { lengthBytes, usedMs } : undefined;
}

function entryChanges(hex: string, { lengthBytes, usedMs }: Entry): Change[] {
  return [
    { key: `c:${hex}`, value: [lengthBytes, usedMs] },
    { key: useKey(hex, usedMs), value: lengthBytes },
  ];
}

function removalOf(hex: string, entry: Entry | undefined): Change[] {
  return entry ? [{ key: useKey(hex, entry.usedMs), value: undefined }] : [];
}

function useKey(hex: string, usedMs: number): string {
  return `u:${String(Math.max(0, Math.floor(usedMs))).padStart(16, '0')}:${hex}`;
}

import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { diskFull, makeDirectory, readFileBounded, syncDirectory } from '../../durable/index.ts';
import { isSystemError, SitecastError } from '../../errors.ts';
import { Chunk } from '../chunk.ts';
import { CHUNK_ID_BYTES, type ChunkId, chunkIdFromHex, chunkPath, eachId } from '../chunk-id.ts';
import { ChunkIdSet } from '../chunk-id-set.ts';
import { MAX_FRAME_BYTES } from '../limits.ts';
import { type ChunkRequest, chunkNotFound, frameTooLarge, type WritableChunkStore } from './chunk-store.ts';

const PREFIX_DIGITS = 4;
const PREFIX_PATTERN = /^[0-9a-f]{4}$/;
const CHUNK_FILE_PATTERN = /^([0-9a-f]{64})\.cacnk$/;
/** Files being written lie here, below the root, so that leftovers are found in one place. */
const PARTIAL_DIRECTORY = '.partial';
/** How many files are looked up before other work gets its turn. */
const LOOKUPS_PER_TURN = 256;

export interface DirectoryStoreOptions {
  /** Program and arguments that, with the root behind them, write a whole file system's dirty data to its disk. */
  readonly syncCommand?: readonly [string, ...string[]];
}

/**
 * Chunks as files, in the layout of casync and desync: `<4 hex>/<64 hex>.cacnk`, one zstd frame each. Written aside and
 * renamed, so a file under its final name is whole as long as the power stays on. What was put since the last `sync` may
 * be damaged after a power cut, so a caller that relies on such a chunk verifies it. Several instances, also in other threads,
 * may share a directory.
 */
export class DirectoryStore implements WritableChunkStore {
  readonly name: string;
  readonly root: string;
  readonly #syncCommand: readonly [string, ...string[]];
  readonly #madePrefixes = new Set<string>();
  readonly #partialPrefix: string;
  #partialCount = 0;
  #unsynced = new ChunkIdSet();

  private constructor(root: string, options: DirectoryStoreOptions) {
    this.root = root;
    this.name = root;
    this.#syncCommand = options.syncCommand ?? ['sync', '-f'];
    this.#partialPrefix = join(root, PARTIAL_DIRECTORY, randomBytes(8).toString('hex'));
  }

  /** Opens a store. Makes its directory if there is none. */
  static async create(root: string, options: DirectoryStoreOptions = {}): Promise<DirectoryStore> {
    const absolute = resolve(root);
    await makeDirectory(join(absolute, PARTIAL_DIRECTORY));
    return new DirectoryStore(absolute, options);
  }

  /**
   * Opens a store to read from, such as one that `casync make` wrote.
   * @throws SITECAST_STORE_NOT_FOUND when there's no such directory
   */
  static async open(root: string): Promise<DirectoryStore> {
    const found = await stat(root).catch((error: unknown) => {
      if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return undefined;
      throw error;
    });
    if (found?.isDirectory() !== true)
      throw new SitecastError(
        'notFound',
        'SITECAST_STORE_NOT_FOUND',
        `${root} is not a chunk store's directory`,
      );
    return new DirectoryStore(resolve(root), {});
  }

  /** Path of the chunk's file, whether it exists or not: to serve it as it is. */
  pathOf(id: ChunkId): string {
    return `${this.root}/${chunkPath(id)}`;
  }

  async has(id: ChunkId, request: ChunkRequest = {}): Promise<boolean> {
    request.signal?.throwIfAborted();
    return this.hasNow(id);
  }

  /** As `has`, without a turn of the event loop. */
  hasNow(id: ChunkId): boolean {
    // An empty file is what a power cut leaves of one that wasn't synced yet.
    return (statSync(this.pathOf(id), { throwIfNoEntry: false })?.size ?? 0) > 0;
  }

  /** Those of a list of ids (32 bytes each) that aren't here, in the list's order. */
  async missing(ids: Uint8Array): Promise<Buffer> {
    const absent: ChunkId[] = [];
    let lookups = 0;
    // One system call each, made in this thread: through the thread pool it would cost ten times as much.
    for (const id of eachId(ids)) {
      if (!this.hasNow(id)) absent.push(id);
      lookups += 1;
      if (lookups % LOOKUPS_PER_TURN === 0) await nextTurn();
    }
    return Buffer.concat(absent, absent.length * CHUNK_ID_BYTES);
  }

  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    request.signal?.throwIfAborted();
    try {
      return Chunk.fromFrame(id, await readFileBounded(this.pathOf(id), MAX_FRAME_BYTES));
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) throw chunkNotFound(id, this, error);
      if (error instanceof SitecastError && error.code === 'SITECAST_FILE_TOO_LARGE')
        throw frameTooLarge(id, error);
      throw error;
    }
  }

  async put(chunk: Chunk): Promise<boolean> {
    if (this.hasNow(chunk.id)) return false;
    const frame = boundedFrame(chunk.id, chunk.frame());
    const partial = this.#nextPartial();
    try {
      const file = await open(partial, 'wx', 0o644);
      try {
        await file.writeFile(frame);
      } finally {
        await file.close();
      }
      await mkdir(join(this.root, this.#prefixOf(chunk.id)), { recursive: true });
      await rename(partial, this.pathOf(chunk.id));
    } catch (error) {
      await rm(partial, { force: true });
      throw storeFull(error, this.root);
    }
    this.#unsynced.add(chunk.id);
    return true;
  }

  /**
   * As `put` for a frame, without a turn of the event loop: a fifth of the CPU time, but it waits for the disk when the
   * system holds writers back. For worker threads.
   * @returns false if it was there already
   */
  putFrameNow(id: ChunkId, frame: Uint8Array): boolean {
    if (this.hasNow(id)) return false;
    const partial = this.#nextPartial();
    try {
      writeFileNow(partial, boundedFrame(id, frame));
      this.#makePrefixNow(id);
      renameSync(partial, this.pathOf(id));
    } catch (error) {
      rmSync(partial, { force: true });
      throw storeFull(error, this.root);
    }
    this.#unsynced.add(id);
    return true;
  }

  /**
   * Reads a chunk's frame into memory of the caller's, longer than MAX_FRAME_BYTES, without a turn of the event loop. For
   * worker threads.
   * @returns length of the frame, in bytes
   * @throws SITECAST_CHUNK_NOT_FOUND, SITECAST_FRAME_TOO_LARGE
   */
  readFrameNow(id: ChunkId, target: Uint8Array): number {
    let file: number;
    try {
      file = openSync(this.pathOf(id), constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      throw isSystemError(error, 'ENOENT') ? chunkNotFound(id, this, error) : error;
    }
    try {
      let filled = 0;
      for (;;) {
        const readBytes = readSync(file, target, filled, target.length - filled, filled);
        filled += readBytes;
        if (filled > MAX_FRAME_BYTES || filled === target.length) throw frameTooLarge(id);
        if (readBytes === 0) return filled;
      }
    } finally {
      closeSync(file);
    }
  }

  /**
   * Moves chunks here from a store on the same file system; those that are here already stay as they are.
   * @returns how many were moved
   * @throws SITECAST_CHUNK_NOT_FOUND when one is in neither
   */
  async adopt(ids: Uint8Array, from: DirectoryStore): Promise<number> {
    let moved = 0;
    let lookups = 0;
    for (const id of eachId(ids)) {
      if (!this.hasNow(id)) {
        this.#moveHereNow(id, from);
        moved += 1;
      }
      lookups += 1;
      if (lookups % LOOKUPS_PER_TURN === 0) await nextTurn();
    }
    return moved;
  }

  /** Deletes a chunk, if it's here. */
  async remove(id: ChunkId): Promise<void> {
    await rm(this.pathOf(id), { force: true });
  }

  /** The ids of all chunks here, in no order. Files that aren't chunks are passed over. */
  *ids(): Generator<ChunkId> {
    for (const prefix of readdirSync(this.root)) {
      if (!PREFIX_PATTERN.test(prefix)) continue;
      for (const file of readdirSync(join(this.root, prefix))) {
        const hex = CHUNK_FILE_PATTERN.exec(file)?.[1];
        if (hex?.startsWith(prefix) === true) yield chunkIdFromHex(hex);
      }
    }
  }

  /** Deletes what interrupted writers left behind. Not while others write. */
  async removePartials(): Promise<void> {
    await rm(join(this.root, PARTIAL_DIRECTORY), { recursive: true, force: true });
    await makeDirectory(join(this.root, PARTIAL_DIRECTORY));
  }

  /**
   * Makes everything in the store survive a power cut, with one syncfs(2) for thousands of files. Where there is no
   * syncfs, each file that this instance put or adopted is synced by itself, and its directory.
   */
  async sync(): Promise<void> {
    const [program, ...args] = this.#syncCommand;
    const written = this.#unsynced;
    this.#unsynced = new ChunkIdSet();
    try {
      await promisify(execFile)(program, [...args, this.root]);
    } catch {
      // No such program, or one without that option: the slow way does the same, and reports what really fails.
      await this.#syncEach(written);
    }
  }

  async #syncEach(written: ChunkIdSet): Promise<void> {
    const prefixes = new Set<string>();
    for (const id of eachId(written.bytes())) {
      const file = await open(this.pathOf(id), 'r').catch((error: unknown) => {
        // The file was removed or moved since it was put: nothing is left here that could be lost.
        if (isSystemError(error, 'ENOENT')) return undefined;
        throw error;
      });
      try {
        await file?.sync();
      } finally {
        await file?.close();
      }
      if (file !== undefined) prefixes.add(this.#prefixOf(id));
    }
    for (const prefix of prefixes) await syncDirectory(join(this.root, prefix));
    await syncDirectory(this.root);
  }

  #moveHereNow(id: ChunkId, from: DirectoryStore): void {
    this.#makePrefixNow(id);
    try {
      renameSync(from.pathOf(id), this.pathOf(id));
    } catch (error) {
      throw isSystemError(error, 'ENOENT') ? chunkNotFound(id, from, error) : storeFull(error, this.root);
    }
    this.#unsynced.add(id);
  }

  #prefixOf(id: ChunkId): string {
    return chunkPath(id).slice(0, PREFIX_DIGITS);
  }

  #makePrefixNow(id: ChunkId): void {
    const prefix = this.#prefixOf(id);
    if (this.#madePrefixes.has(prefix)) return;
    mkdirSync(join(this.root, prefix), { recursive: true });
    this.#madePrefixes.add(prefix);
  }

  #nextPartial(): string {
    this.#partialCount += 1;
    return `${this.#partialPrefix}-${this.#partialCount}`;
  }
}

function writeFileNow(path: string, bytes: Uint8Array): void {
  const file = openSync(path, 'wx', 0o644);
  try {
    for (let written = 0; written < bytes.length; ) {
      written += writeSync(file, bytes, written);
    }
  } finally {
    closeSync(file);
  }
}

function boundedFrame(id: ChunkId, frame: Uint8Array): Uint8Array {
  if (frame.length > MAX_FRAME_BYTES) throw frameTooLarge(id);
  return frame;
}

function storeFull(error: unknown, root: string): unknown {
  if (!isSystemError(error, 'ENOSPC', 'EDQUOT')) return error;
  return diskFull('chunk store', root, { cause: error });
}

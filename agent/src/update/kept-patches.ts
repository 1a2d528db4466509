import { readdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import {
  Chunk,
  type ChunkId,
  chunkIdToHex,
  chunkNotFound,
  type ChunkStore,
  MAX_CHUNK_BYTES,
  sameChunkId,
  sha256,
} from '@sitecast/shared/content';
import { makeDirectory, readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { DurableFiles } from '../state/durable-files.ts';

const PATCHES_DIRECTORY = 'patches';
/** How long nothing is kept after a failed write. The file system's free space doesn't show everything, such as a quota. */
const FULL_FOR_MS = 60 * 60_000;

/**
 * Chunks of patches. They are kept durably until the chunks made from them are durable in the slot, so a power cut makes no patch be
 * fetched twice.
 */
export class KeptPatches {
  readonly #data: string;
  readonly directory: string;
  readonly #files: Pick<DurableFiles, 'replace'>;
  /** By the monotonic clock. */
  #fullUntilMs = Number.NEGATIVE_INFINITY;

  /** @param data the agent's own directory */
  constructor(data: string, files: Pick<DurableFiles, 'replace'>) {
    this.#data = data;
    this.directory = join(data, PATCHES_DIRECTORY);
    this.#files = files;
  }

  /** @returns undefined where it isn't kept, or is damaged */
  async get(id: ChunkId): Promise<Buffer | undefined> {
    try {
      const bytes = await readFileBounded(this.#pathOf(id), MAX_CHUNK_BYTES);
      return sameChunkId(sha256(bytes), id) ? bytes : undefined;
    } catch (error) {
      if (isSystemError(error) || error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  /** Ids of the kept chunks, in hex. Damaged ones are noticed only when they are read. */
  async ids(): Promise<ReadonlySet<string>> {
    return new Set(await this.#names());
  }

  /** The kept chunks, for peers. */
  get store(): ChunkStore {
    const store: ChunkStore = {
      name: this.directory,
      has: async id => (await this.get(id)) !== undefined,
      get: async id => {
        const bytes = await this.get(id);
        if (bytes) return Chunk.fromPlain(id, bytes).verify();
        throw chunkNotFound(id, store);
      },
    };
    return store;
  }

  /** Free bytes on the data directory's file system. Infinite if it doesn't say. */
  async freeBytes(): Promise<number> {
    if (performance.now() < this.#fullUntilMs) return 0;
    try {
      const { bavail, bsize } = await statfs(this.#data);
      return bavail * bsize;
    } catch (error) {
      if (isSystemError(error)) return Number.POSITIVE_INFINITY;
      throw error;
    }
  }

  /** Durable when it resolves. */
  async put(id: ChunkId, bytes: Uint8Array): Promise<void> {
    try {
      await makeDirectory(this.directory, 0o700);
      await this.#files.replace(this.#pathOf(id), bytes, 0o600);
    } catch (error) {
      if (isSystemError(error)) this.#fullUntilMs = performance.now() + FULL_FOR_MS;
      throw error;
    }
  }

  /** Removes all but these. Files that come back after a power cut are removed by the next call. */
  async keepOnly(ids: readonly ChunkId[]): Promise<void> {
    const kept = new Set(ids.map(chunkIdToHex));
    for (const name of await this.#names())
      if (!kept.has(name)) await rm(join(this.directory, name), { recursive: true, force: true });
  }

  async #names(): Promise<string[]> {
    try {
      return await readdir(this.directory);
    } catch (error) {
      if (isSystemError(error, 'ENOENT')) return [];
      throw error;
    }
  }

  #pathOf(id: ChunkId): string {
    return join(this.directory, chunkIdToHex(id));
  }
}

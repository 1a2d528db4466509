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
/** After a failed write nothing is kept for so long, whatever room the file system says it has: a quota, say, isn't in that. */
const FULL_FOR_MS = 60 * 60_000;

/** Chunks of patches, kept durably until what they make is durable in the slot: a power cut makes no patch come twice. */
export class KeptPatches {
  readonly #data: string;
  readonly directory: string;
  readonly #files: Pick<DurableFiles, 'replace'>;
  /** On the monotonic clock. */
  #fullUntilMs = Number.NEGATIVE_INFINITY;

  /** @param data the agent's own directory */
  constructor(data: string, files: Pick<DurableFiles, 'replace'>) {
    this.#data = data;
    this.directory = join(data, PATCHES_DIRECTORY);
    this.#files = files;
  }

  /** @returns undefined where it isn't here, or is damaged */
  async get(id: ChunkId): Promise<Buffer | undefined> {
    try {
      const bytes = await readFileBounded(this.#pathOf(id), MAX_CHUNK_BYTES);
      return sameChunkId(sha256(bytes), id) ? bytes : undefined;
    } catch (error) {
      if (isSystemError(error) || error instanceof SitecastError) return undefined;
      throw error;
    }
  }

  /** Ids of those that lie here, in hex; whether they are right shows when they are read. */
  async ids(): Promise<ReadonlySet<string>> {
    return new Set(await this.#names());
  }

  /** To hand them out. */
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

  /** What the file system of the data directory has room for. Infinite where it doesn't say. */
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

  /** Durable once it returns. */
  async put(id: ChunkId, bytes: Uint8Array): Promise<void> {
    try {
      await makeDirectory(this.directory, 0o700);
      await this.#files.replace(this.#pathOf(id), bytes, 0o600);
    } catch (error) {
      if (isSystemError(error)) this.#fullUntilMs = performance.now() + FULL_FOR_MS;
      throw error;
    }
  }

  /** Removes all but these. What a power cut brings back is removed by the next call. */
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

import { chunkIdFromHex, chunkIdToHex, eachId } from '@sitecast/shared/content';
import {
  type ChunkPart,
  type Inspection,
  partOf,
  type PublishedChunks,
} from '../../repository/repository-store.ts';
import type { ChunkStaging } from '../../staging/ports.ts';
import type { Files } from './files.ts';
import { readOrUndefined } from './errors.ts';
import { chunkHexOf, LAST_PUBLISHED, PUBLISHED_CHUNKS, publishedFolder, stagedPath } from './layout.ts';

/** Staged and published chunks on one disk. Calls are carried out one after the other. */
export interface LocalChunks extends ChunkStaging, Pick<PublishedChunks, 'inspect' | 'removeUnused'> {
  /** Those of the ids that aren't published, staged or not, in their order. */
  unpublished(ids: Uint8Array): Promise<Uint8Array>;
  /** Those of the ids that are staged to replace a published chunk whose bytes are wrong. */
  repairs(ids: Uint8Array): Promise<Uint8Array>;
  /** Moves staged chunks to where they are published. The new names last once their directories are synced. */
  publish(ids: Uint8Array): Promise<void>;
  /** Moves published chunks that no committed release came to refer to back to staging. */
  unpublish(ids: Uint8Array): Promise<void>;
}

/** A folder of published chunks: the first two bytes of their ids. */
const FOLDER = /^[0-9a-f]{4}$/;
const MAX_TIME_BYTES = 64;

/** The published chunks, as files that any web server may hand out. */
export class DiskChunks implements PublishedChunks {
  readonly #files: Files;
  readonly #chunks: LocalChunks;

  constructor(files: Files, chunks: LocalChunks) {
    this.#files = files;
    this.#chunks = chunks;
  }

  async *list({ part, parts }: ChunkPart = { part: 0, parts: 1 }): AsyncGenerator<Uint8Array> {
    for (const folder of await this.#files.listDirectories(PUBLISHED_CHUNKS)) {
      if (!FOLDER.test(folder) || partOf(Number.parseInt(folder, 16), parts) !== part) continue;
      const ids: Uint8Array[] = [];
      for await (const { name } of this.#files.list(`${PUBLISHED_CHUNKS}/${folder}`)) {
        const hex = chunkHexOf(name);
        if (hex !== undefined) ids.push(chunkIdFromHex(hex));
      }
      yield Buffer.concat(ids);
    }
  }

  async publishedMs(): Promise<number | undefined> {
    const bytes = await readOrUndefined(this.#files, LAST_PUBLISHED, MAX_TIME_BYTES);
    const timeMs = Date.parse(bytes?.toString('utf8') ?? '');
    return Number.isNaN(timeMs) ? undefined : timeMs;
  }

  removeUnused(ids: Uint8Array, beforeMs: number): Promise<number> {
    return this.#chunks.removeUnused(ids, beforeMs);
  }

  lacking(ids: Uint8Array): Promise<Uint8Array> {
    return this.#chunks.unpublished(ids);
  }

  inspect(ids: Uint8Array): Promise<Inspection> {
    return this.#chunks.inspect(ids);
  }

  async repair(ids: Uint8Array): Promise<void> {
    await syncStaged(this.#files, ids);
    await publishChunks(this.#files, this.#chunks, ids);
  }
}

/** Makes the bytes of staged chunks durable. */
export async function syncStaged(files: Files, ids: Uint8Array): Promise<void> {
  await files.syncAll([...eachId(ids)].map(id => stagedPath(chunkIdToHex(id))));
}

/** Moves chunks whose bytes are durable. When it returns, their new names are durable, too. */
export async function publishChunks(files: Files, chunks: LocalChunks, ids: Uint8Array): Promise<void> {
  if (ids.length === 0) return;
  await chunks.publish(ids);
  const folders = new Set([...eachId(ids)].map(publishedFolder));
  await files.syncAll([LAST_PUBLISHED, ...folders, PUBLISHED_CHUNKS]);
}

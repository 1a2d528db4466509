import { CHUNK_ID_BYTES, type ChunkId, ChunkIdSet, ChunkIndex, eachId } from '@sitecast/shared/content';
import { parseTargetName } from '@sitecast/shared/release';
import type { Committed } from './committed.ts';
import { publishedFiles, targetKey } from './listing.ts';
import type { PublishedContent } from './published-content.ts';
import {
  type ChunkPart,
  partOf,
  type PublishedChunks,
  type RepositoryStore,
  type TargetRef,
} from './repository-store.ts';
import { fileLost } from './target-source.ts';

/** About how many ids are kept in memory, at 45 bytes each. If indexes name more, the chunks are processed in several parts. */
const MAX_MARKS = 512 * 1024;
/** An index has 40 bytes per chunk. */
const INDEX_ENTRY_BYTES = 40;
/** How many chunks are deleted at once; no change can be made meanwhile. */
const REMOVED_AT_ONCE = 512;

interface UnusedChunksDeps {
  published: Pick<RepositoryStore, 'target' | 'targets'>;
  publishedChunks: Pick<PublishedChunks, 'list' | 'removeUnused'>;
  content: Pick<PublishedContent, 'read' | 'damage'>;
  /** Runs an act while no change is under way. @param act is given what is published then */
  exclusively: <T>(act: (committed: Committed | undefined) => Promise<T>) => Promise<T>;
}

/**
 * Deletes published chunks that no index names any more: those of withdrawn releases and removed deltas. An index counts as long as its
 * file exists, which is a day longer than metadata lists it, so gateways that are still fetching find its chunks. A chunk that an upload
 * has asked for stays as long as a staged one. There are no notes: what an interrupted run leaves is deleted by the next one.
 * @param beforeMs chunks that were published or asked for since then stay
 * @returns how many were deleted
 * @throws SITECAST_FILES_LOST if a listed index can't be read: its chunks aren't known, so none is deleted
 */
export async function removeUnusedChunks(deps: UnusedChunksDeps, beforeMs: number): Promise<number> {
  const { exclusively, publishedChunks } = deps;
  const committed = await exclusively(async current => current);
  if (!committed) return 0;
  const lost = indexesOf(committed).find(({ name }) => deps.content.damage.hasFile(name));
  // A loss that is known already: no index needs to be read.
  if (lost) throw fileLost(lost);
  const indexBytes = indexesOf(committed).reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const parts = Math.max(1, Math.ceil(indexBytes / INDEX_ENTRY_BYTES / MAX_MARKS));
  let removed = 0;
  for (let part = 0; part < parts; part += 1) {
    const marks = new Marks(deps, { part, parts });
    await marks.addListed(committed);
    await marks.addKept();
    for await (const ids of publishedChunks.list({ part, parts })) {
      const unused = marks.without(ids);
      for (let at = 0; at < unused.length; at += REMOVED_AT_ONCE * CHUNK_ID_BYTES) {
        const group = unused.subarray(at, at + REMOVED_AT_ONCE * CHUNK_ID_BYTES);
        removed += await exclusively(async current => {
          // A change that was made meanwhile may name some of them.
          if (current) await marks.addListed(current);
          return await publishedChunks.removeUnused(marks.without(group), beforeMs);
        });
      }
    }
  }
  return removed;
}

/** The chunks of one part that indexes name. */
class Marks {
  readonly #deps: UnusedChunksDeps;
  readonly #part: ChunkPart;
  readonly #ids = new ChunkIdSet();
  /** Indexes that are read. */
  readonly #indexes = new Set<string>();
  #listed: Committed | undefined;

  constructor(deps: UnusedChunksDeps, part: ChunkPart) {
    this.#deps = deps;
    this.#part = part;
  }

  /** Adds the chunks of listed indexes. @throws SITECAST_FILES_LOST, SITECAST_INDEX_… */
  async addListed(committed: Committed): Promise<void> {
    if (this.#listed === committed) return;
    for (const file of indexesOf(committed)) {
      if (this.#indexes.has(targetKey(file))) continue;
      const bytes = await this.#deps.content.read(file);
      if (!bytes) throw fileLost(file);
      this.#add(file, bytes);
    }
    this.#listed = committed;
  }

  /** Adds the chunks of indexes whose files still exist. An unreadable one is skipped: it isn't listed any more, so it isn't needed. */
  async addKept(): Promise<void> {
    const { published } = this.#deps;
    for await (const file of published.targets()) {
      const isNew = isIndex(file) && !this.#indexes.has(targetKey(file));
      const bytes = isNew ? await published.target(file) : undefined;
      if (bytes) this.#add(file, bytes);
    }
  }

  /** The given ids that no index names. */
  without(ids: Uint8Array): Buffer {
    return Buffer.concat([...eachId(ids)].filter(id => !this.#ids.has(id)));
  }

  #add(file: TargetRef, bytes: Uint8Array): void {
    const { part, parts } = this.#part;
    const index = ChunkIndex.decode(bytes);
    for (let at = 0; at < index.count; at += 1) {
      const id = index.idAt(at);
      if (partOf(beginningOf(id), parts) === part) this.#ids.add(id);
    }
    this.#indexes.add(targetKey(file));
  }
}

function beginningOf(id: ChunkId): number {
  return ((id[0] ?? 0) << 8) | (id[1] ?? 0);
}

function isIndex({ name }: Pick<TargetRef, 'name'>): boolean {
  const kind = parseTargetName(name)?.kind;
  return kind === 'index' || kind === 'patchIndex';
}

const indexesOf = (committed: Committed) => publishedFiles(committed).filter(isIndex);

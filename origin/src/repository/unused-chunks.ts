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

/** Ids that are remembered at one time, about: 45 bytes each. Where indexes name more, the chunks are gone through in several parts. */
const MAX_MARKS = 512 * 1024;
/** An index has 40 bytes a chunk. */
const INDEX_ENTRY_BYTES = 40;
/** Chunks deleted in one go, while no change can be made. */
const REMOVED_AT_ONCE = 512;

interface UnusedChunksDeps {
  published: Pick<RepositoryStore, 'target' | 'targets'>;
  publishedChunks: Pick<PublishedChunks, 'list' | 'removeUnused'>;
  content: Pick<PublishedContent, 'read' | 'damage'>;
  /** Runs an act while no change is under way. @param act is given what is published then */
  exclusively: <T>(act: (committed: Committed | undefined) => Promise<T>) => Promise<T>;
}

/**
 * Deletes published chunks that no index names any more: those of withdrawn releases and of deltas that are over. An index counts as long
 * as its file is there, and that is a day longer than metadata lists it, so gateways that are still fetching find its chunks. A chunk that
 * an upload has asked for stays as long as a staged one. Nothing is remembered: what an interruption leaves goes the next time.
 * @param beforeMs chunks that were published or asked for since then stay
 * @returns how many were deleted
 * @throws SITECAST_FILES_LOST where an index that is listed can't be read: its chunks aren't known, so none is deleted
 */
export async function removeUnusedChunks(deps: UnusedChunksDeps, beforeMs: number): Promise<number> {
  const { exclusively, publishedChunks } = deps;
  const committed = await exclusively(async current => current);
  if (!committed) return 0;
  const lost = indexesOf(committed).find(({ name }) => deps.content.damage.hasFile(name));
  // Known already: no index is read in vain.
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
          // A change that came meanwhile may name one of them.
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

  /** What the indexes name that are listed. @throws SITECAST_FILES_LOST, SITECAST_INDEX_… */
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

  /** What the indexes name whose files are still there. One that can't be read any more was listed once: nobody needs it. */
  async addKept(): Promise<void> {
    const { published } = this.#deps;
    for await (const file of published.targets()) {
      const isNew = isIndex(file) && !this.#indexes.has(targetKey(file));
      const bytes = isNew ? await published.target(file) : undefined;
      if (bytes) this.#add(file, bytes);
    }
  }

  /** Those of the ids that nothing names. */
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

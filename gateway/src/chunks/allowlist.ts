import {
  type ChunkId,
  ChunkIdSet,
  ChunkIndex,
  chunkNotFound,
  type ChunkStore,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { parseTargetName } from '@sitecast/shared/release';
import type { FoundTarget } from '@sitecast/shared/trust';
import type { Log } from '@sitecast/shared/log';
import pLimit from 'p-limit';
import { type MirrorSet, orderedIndexes, pinnedIndexes } from '../mirror/mirror-set.ts';

/** Bound of the ids that all mirrored indexes name together: about 90 MB of memory, 120 GiB of images at the default chunk size. */
const MAX_ALLOWED_CHUNKS = 2_000_000;

interface ChunkAllowlistDeps {
  /** A mirrored file; undefined if it isn't stored here. */
  local: (target: FoundTarget) => Promise<Uint8Array | undefined>;
  log: Log;
  maxChunks?: number;
  /** Whether `isOrdered` is needed: its ids take additional memory. Default: no. */
  givesToOthers?: boolean;
}

type FollowedSet = Pick<MirrorSet, 'targets' | 'rollouts'>;

/** The chunks of some of the indexes. The strings are keys of indexes. */
interface IndexedChunks {
  readonly choose: (set: FollowedSet) => FoundTarget[];
  /** All these indexes, whether their files are here or not. */
  readonly chosen: ReadonlySet<string>;
  readonly ids: ChunkIdSet;
  /** Those whose chunks are in `ids`. */
  readonly read: Set<string>;
  /** Those that can't be read, or name too many chunks. They aren't tried again before `ids` is made anew. */
  readonly leftOut: Set<string>;
}

/** The chunks that signed indexes in the mirror name. No other chunk is fetched or served. */
export class ChunkAllowlist {
  readonly #deps: ChunkAllowlistDeps;
  readonly #maxChunks: number;
  #listed = choosing(({ targets }) => [...targets.values()].filter(isIndex));
  #pinned = choosing(({ targets, rollouts }) => pinnedIndexes(targets, rollouts));
  #ordered: IndexedChunks;
  /** What these become, or became last. */
  #next: readonly IndexedChunks[] = [];
  /** One index is read at a time: anyone at the site may ask for many that haven't been read. */
  readonly #turn = pLimit(1);

  constructor(deps: ChunkAllowlistDeps) {
    this.#deps = deps;
    this.#maxChunks = deps.maxChunks ?? MAX_ALLOWED_CHUNKS;
    this.#ordered = choosing(({ targets, rollouts }) =>
      deps.givesToOthers === true ? orderedIndexes(targets, rollouts) : [],
    );
  }

  get size(): number {
    return this.#listed.ids.size;
  }

  has(id: ChunkId): boolean {
    return this.#listed.ids.has(id);
  }

  /** Whether a rollout under way needs the chunk. */
  isPinned(id: ChunkId): boolean {
    return this.#pinned.ids.has(id);
  }

  /** Whether a listed rollout orders a release that has it. Always false if gateways of other sites are not served. */
  isOrdered(id: ChunkId): boolean {
    return this.#ordered.ids.has(id);
  }

  /** A store that passes on only requests for these chunks. */
  guard(store: ChunkStore): ChunkStore {
    return {
      name: store.name,
      has: async (id, request) => {
        request?.signal?.throwIfAborted();
        return this.has(id) && store.has(id, request);
      },
      get: (id, request) =>
        this.has(id) ? store.get(id, request) : Promise.reject(chunkNotFound(id, store)),
    };
  }

  /** Follows a new set, after those of earlier calls: indexes that it no longer lists are forgotten. */
  follow(set: FollowedSet): Promise<void> {
    return this.#turn(async () => {
      const listed = following(this.#listed, set);
      const pinned = following(this.#pinned, set);
      const ordered = following(this.#ordered, set);
      this.#next = [listed, pinned, ordered];
      for (const target of set.targets.values()) await this.#read(target, this.#next);
      this.#listed = listed;
      this.#pinned = pinned;
      this.#ordered = ordered;
    });
  }

  /** Adds the chunks of one more target, if it is an index that the followed set lists and its file is here. */
  async add(target: FoundTarget): Promise<void> {
    const current = (): IndexedChunks[] => [this.#listed, this.#pinned, this.#ordered];
    // Most requests are for a file that has been read. They don't wait.
    if (![...current(), ...this.#next].some(chunks => lacks(chunks, keyOf(target)))) return;
    await this.#turn(() => this.#read(target, current()));
  }

  /** Adds a target's chunks where they belong and aren't yet. */
  async #read(target: FoundTarget, all: readonly IndexedChunks[]): Promise<void> {
    const key = keyOf(target);
    const lacking = all.filter(chunks => lacks(chunks, key));
    const bytes = lacking.length === 0 ? undefined : await this.#deps.local(target);
    if (bytes === undefined) return;
    const index = this.#decode(target, bytes);
    for (const chunks of lacking) {
      const isAdded = index !== undefined && this.#addIds(target, index, chunks.ids);
      (isAdded ? chunks.read : chunks.leftOut).add(key);
    }
  }

  #decode({ name }: FoundTarget, bytes: Uint8Array): ChunkIndex | undefined {
    try {
      return ChunkIndex.decode(bytes);
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      this.#deps.log.warn(
        { target: name, code: error.code },
        'a signed index cannot be read; it is left out',
      );
      return undefined;
    }
  }

  #addIds({ name }: FoundTarget, index: ChunkIndex, ids: ChunkIdSet): boolean {
    const maxChunks = this.#maxChunks;
    if (ids.size + index.count > maxChunks) {
      this.#deps.log.warn({ target: name, maxChunks }, 'too many chunks; an index is left out');
      return false;
    }
    for (let at = 0; at < index.count; at += 1) ids.add(index.idAt(at));
    return true;
  }
}

function choosing(choose: IndexedChunks['choose'], chosen: ReadonlySet<string> = new Set()): IndexedChunks {
  return { choose, chosen, ids: new ChunkIdSet(), read: new Set(), leftOut: new Set() };
}

/** What becomes of the chunks with a new set: the same ids, to which others are added, unless some of them must go. */
function following(chunks: IndexedChunks, set: FollowedSet): IndexedChunks {
  const { choose, read, leftOut } = chunks;
  const chosen = new Set(choose(set).map(keyOf));
  if ([...read].some(key => !chosen.has(key))) return choosing(choose, chosen);
  return { ...chunks, chosen, leftOut: new Set([...leftOut].filter(key => chosen.has(key))) };
}

function lacks({ chosen, read, leftOut }: IndexedChunks, key: string): boolean {
  return chosen.has(key) && !read.has(key) && !leftOut.has(key);
}

/** Of an image, or of the patches of a delta. */
function isIndex({ name }: FoundTarget): boolean {
  const kind = parseTargetName(name)?.kind;
  return kind === 'index' || kind === 'patchIndex';
}

function keyOf({ name, file }: FoundTarget): string {
  return `${name} ${file.hashes.sha256}`;
}

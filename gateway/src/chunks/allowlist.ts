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

/** The chunks of some of the indexes. */
interface ChosenChunks {
  choose: (set: FollowedSet) => FoundTarget[];
  ids: ChunkIdSet;
  /** Of the indexes that have been read; empty where one was missing. */
  names: string;
}

/** The chunks that signed indexes in the mirror name. No other chunk is fetched or served. */
export class ChunkAllowlist {
  readonly #deps: ChunkAllowlistDeps;
  readonly #maxChunks: number;
  #ids = new ChunkIdSet();
  #indexes = new Set<string>();
  readonly #pinned = choosing(set => pinnedIndexes(set.targets, set.rollouts));
  readonly #ordered = choosing(set => orderedIndexes(set.targets, set.rollouts));
  /** The newest set that it follows. */
  #set: FollowedSet | undefined;

  constructor(deps: ChunkAllowlistDeps) {
    this.#deps = deps;
    this.#maxChunks = deps.maxChunks ?? MAX_ALLOWED_CHUNKS;
  }

  get size(): number {
    return this.#ids.size;
  }

  has(id: ChunkId): boolean {
    return this.#ids.has(id);
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

  /** Follows a new set: indexes that it no longer lists are forgotten. */
  async follow(set: FollowedSet): Promise<void> {
    this.#set = set;
    const here = new Map<string, FoundTarget>();
    for (const target of set.targets.values()) {
      if (isIndex(target)) here.set(keyOf(target), target);
    }
    if ([...this.#indexes].some(key => !here.has(key))) {
      const ids = new ChunkIdSet();
      const indexes = new Set<string>();
      for (const [key, target] of here) if (await this.#addIds(target, ids)) indexes.add(key);
      this.#ids = ids;
      this.#indexes = indexes;
    } else {
      for (const target of here.values()) await this.#addIndex(target);
    }
    await this.#chooseFrom(set);
  }

  /** Adds the chunks of one more target, if it is an index and its file is here. */
  async add(target: FoundTarget): Promise<void> {
    if (!isIndex(target) || this.#indexes.has(keyOf(target))) return;
    await this.#addIndex(target);
    if (this.#set) await this.#chooseFrom(this.#set);
  }

  async #addIndex(target: FoundTarget): Promise<void> {
    if (this.#indexes.has(keyOf(target))) return;
    if (await this.#addIds(target, this.#ids)) this.#indexes.add(keyOf(target));
  }

  async #chooseFrom(set: FollowedSet): Promise<void> {
    await this.#read(this.#pinned, set);
    if (this.#deps.givesToOthers === true) await this.#read(this.#ordered, set);
  }

  async #read(chosen: ChosenChunks, set: FollowedSet): Promise<void> {
    const targets = chosen.choose(set);
    const names = targets.map(keyOf).sort().join(' ');
    if (names === chosen.names) return;
    const ids = new ChunkIdSet();
    let isWhole = true;
    for (const target of targets) isWhole = (await this.#addIds(target, ids)) && isWhole;
    // A newer set is followed meanwhile, and its needs count.
    if (set !== this.#set) return;
    chosen.ids = ids;
    chosen.names = isWhole ? names : '';
  }

  async #addIds(target: FoundTarget, ids: ChunkIdSet): Promise<boolean> {
    const { local, log } = this.#deps;
    const bytes = await local(target);
    if (bytes === undefined) return false;
    try {
      const index = ChunkIndex.decode(bytes);
      if (ids.size + index.count > this.#maxChunks) {
        log.warn(
          { target: target.name, maxChunks: this.#maxChunks },
          'too many chunks; an index is left out',
        );
        return false;
      }
      for (let at = 0; at < index.count; at += 1) ids.add(index.idAt(at));
      return true;
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.warn({ target: target.name, code: error.code }, 'a signed index cannot be read; it is left out');
      return false;
    }
  }
}

const choosing = (choose: ChosenChunks['choose']): ChosenChunks => ({
  choose,
  ids: new ChunkIdSet(),
  names: '',
});

/** Of an image, or of the patches of a delta. */
function isIndex({ name }: FoundTarget): boolean {
  const kind = parseTargetName(name)?.kind;
  return kind === 'index' || kind === 'patchIndex';
}

function keyOf({ name, file }: FoundTarget): string {
  return `${name} ${file.hashes.sha256}`;
}

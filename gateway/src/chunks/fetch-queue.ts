import {
  Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { FairQueue } from '@sitecast/shared/bounded';
import type { MemoryStore } from './memory-store.ts';

/** How many chunks one queue fetches at a time. */
export const MAX_UPSTREAM_FETCHES = 16;
/** How many chunks may wait for their turn. If there are more, the requester that has the most loses one. */
const MAX_QUEUED_FETCHES = 2048;
const FETCH_TIMEOUT_MS = 120_000;
/** The requester of chunks that this gateway fetches ahead. */
const ITSELF = 'this gateway';

/** A request that waits in the turn of its requester. */
export interface QueuedRequest extends ChunkRequest {
  /** An address; default: this gateway itself. */
  readonly requester?: string;
}

/** A store that passes the requester on to a queue. */
export interface QueuedChunkStore extends ChunkStore {
  get(id: ChunkId, request?: QueuedRequest): Promise<Chunk>;
}

interface FetchQueueDeps {
  /** Gives only chunks that it has verified. */
  source: ChunkStore;
  memory: MemoryStore;
  disk: { put(chunk: Chunk): Promise<unknown> };
  /** Chunks fetched at one time. */
  atOnce: number;
}

interface Pending {
  chunk: Promise<Chunk>;
  resolve: (chunk: Chunk) => void;
  reject: (error: unknown) => void;
  isBegun: boolean;
  /** The requesters in whose turns it waits. */
  requesters: Set<string>;
}

/**
 * Fetches chunks from a source, each once however many requesters ask, and keeps them in memory and on the disk. A chunk waits in the turns
 * of all its requesters and is fetched in the first of these, so no chunk waits behind another requester's long list. A fetch goes on even
 * if its requesters leave.
 */
export class FetchQueue implements QueuedChunkStore {
  readonly #deps: FetchQueueDeps;
  readonly #queue: FairQueue;
  readonly #pending = new Map<string, Pending>();

  constructor(deps: FetchQueueDeps) {
    this.#deps = deps;
    this.#queue = new FairQueue({ maxRunning: deps.atOnce, maxWaiting: MAX_QUEUED_FETCHES });
  }

  get name(): string {
    return this.#deps.source.name;
  }

  /** Chunks that wait for their turn. */
  get waiting(): number {
    return this.#queue.waiting;
  }

  /** How many chunks were not fetched since the start because other requesters had asked for fewer. */
  get givenUp(): number {
    return this.#queue.givenUp;
  }

  has(id: ChunkId, request?: ChunkRequest): Promise<boolean> {
    return this.#deps.source.has(id, request);
  }

  /** @throws errors of the source; SITECAST_BUSY (unreachable) if the request lost its place */
  async get(id: ChunkId, { signal, requester = ITSELF }: QueuedRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const hex = chunkIdToHex(id);
    const pending = this.#pending.get(hex) ?? this.#begin(hex);
    if (!pending.isBegun && !pending.requesters.has(requester)) {
      // A copy: the caller may use the id's memory again before the chunk has its turn.
      const own = Uint8Array.from(id);
      pending.requesters.add(requester);
      this.#queue.add(
        requester,
        async () => {
          if (pending.isBegun) return;
          pending.isBegun = true;
          await this.#fetch(own, pending.resolve).catch(pending.reject);
        },
        () => {
          pending.requesters.delete(requester);
          if (!pending.isBegun && pending.requesters.size === 0) pending.reject(busy());
        },
      );
    }
    return pending.chunk;
  }

  /** Requesters don't wait for the disk, but the next fetch does: otherwise frames would pile up before a slow disk. */
  async #fetch(id: ChunkId, onFetched: (chunk: Chunk) => void): Promise<void> {
    const { source, memory, disk } = this.#deps;
    // It may have been fetched for another requester while this one waited for its turn.
    const known = memory.frame(chunkIdToHex(id));
    if (known) {
      onFetched(Chunk.fromFrame(id, known));
      return;
    }
    const chunk = await source.get(id, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
    memory.put(chunk);
    onFetched(chunk);
    await disk.put(chunk);
  }

  #begin(hex: string): Pending {
    let resolve: Pending['resolve'] = () => {};
    let reject: Pending['reject'] = () => {};
    const chunk = new Promise<Chunk>((...both) => ([resolve, reject] = both));
    const pending: Pending = { chunk, resolve, reject, isBegun: false, requesters: new Set() };
    this.#pending.set(hex, pending);
    const forget = (): void => void this.#pending.delete(hex);
    chunk.then(forget, forget);
    return pending;
  }
}

function busy(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_BUSY', 'too many chunks are being fetched already');
}

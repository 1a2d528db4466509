import { type ChunkId, type ChunkStore, chunkIdToHex } from '@sitecast/shared/content';
import type { ChunkCache } from './disk-cache.ts';
import { FetchQueue } from './fetch-queue.ts';
import type { FrameMemory } from './memory-cache.ts';

/** Chunks that are fetched at one time: for devices, and as many for other gateways. */
export const MAX_UPSTREAM_FETCHES = 16;
const FETCH_TIMEOUT_MS = 120_000;
/** Who asks for what this gateway fetches ahead. */
const ITSELF = 'this gateway';

interface ChunkServiceDeps {
  named: { has(id: ChunkId): boolean };
  cache: Pick<ChunkCache, 'get' | 'put' | 'use'>;
  /** Where chunks come from that devices ask for; it verifies what it gives. */
  forDevices: ChunkStore;
  /** The same for other gateways; undefined where they get only what is here. */
  forGateways: ChunkStore | undefined;
  memory: Pick<FrameMemory, 'get' | 'set'>;
  /** Chunks fetched at one time, for devices, and as many for other gateways. */
  fetchesAtOnce: number;
}

/** How a chunk was found, for the counters. */
export interface ChunkCounts {
  memoryHits: number;
  diskHits: number;
}

/**
 * Where a chunk may be fetched from that isn't here: from wherever it can be had, for a device; from the origin, for another
 * gateway, so that nothing is ever forwarded twice; from nowhere, for one that asks only what is here.
 */
export type Reach = 'anywhere' | 'origin' | 'here';

/**
 * Hands out chunks that a mirrored index names: from memory, from the disk, or from upstream. However many ask for one at
 * the same time, it's read or fetched once; who goes away meanwhile doesn't stop it for the others.
 */
export class ChunkService {
  readonly counts: ChunkCounts = { memoryHits: 0, diskHits: 0 };
  readonly #deps: ChunkServiceDeps;
  readonly #memory: Pick<FrameMemory, 'get' | 'set'>;
  readonly #reading = new Map<string, Promise<Buffer | undefined>>();
  readonly #fetching: FetchQueue;
  // Of their own: what two gateways fetch for each other must not wait for what they have asked each other for.
  readonly #fetchingForGateways: FetchQueue;

  constructor(deps: ChunkServiceDeps) {
    this.#deps = deps;
    this.#memory = deps.memory;
    this.#fetching = new FetchQueue(deps.fetchesAtOnce);
    this.#fetchingForGateways = new FetchQueue(deps.fetchesAtOnce);
  }

  /** Whether some wait for their turn to be fetched. */
  get isBusy(): boolean {
    return this.#fetching.waiting > 0 || this.#fetchingForGateways.waiting > 0;
  }

  /** Chunks that weren't fetched because others had asked for less, so far. */
  get givenUp(): number {
    return this.#fetching.givenUp + this.#fetchingForGateways.givenUp;
  }

  /** Whether a mirrored index names it: else there's no use in asking. */
  isAllowed(id: ChunkId): boolean {
    return this.#deps.named.has(id);
  }

  /** The frame, if it's in memory. */
  inMemory(hex: string): Buffer | undefined {
    const frame = this.#memory.get(hex);
    if (!frame) return undefined;
    this.counts.memoryHits += 1;
    this.#deps.cache.use(hex);
    return frame;
  }

  /**
   * @param owner who asks, an address: each comes in its turn, however many chunks others want
   * @returns the frame, verified; undefined if there's no such chunk, or none within reach
   * @throws SITECAST_STORE_UNREACHABLE, SITECAST_CHUNK_NOT_FOUND, SITECAST_CHUNK_MISMATCH …: no upstream gave it;
   *   SITECAST_BUSY
   */
  async get(
    id: ChunkId,
    { reach, owner = ITSELF }: { reach: Reach; owner?: string },
  ): Promise<Buffer | undefined> {
    if (!this.isAllowed(id)) return undefined;
    const hex = chunkIdToHex(id);
    const here = this.inMemory(hex) ?? (await this.#once(this.#reading, hex, () => this.#read(id, hex)));
    if (here || reach === 'here') return here;
    const { forDevices, forGateways } = this.#deps;
    if (reach === 'anywhere')
      return this.#fetching.fetch(owner, hex, onFetched =>
        this.#fetchAndKeep(id, hex, forDevices, onFetched),
      );
    if (!forGateways) return undefined;
    return this.#fetchingForGateways.fetch(owner, hex, onFetched =>
      this.#fetchAndKeep(id, hex, forGateways, onFetched),
    );
  }

  async #read(id: ChunkId, hex: string): Promise<Buffer | undefined> {
    const frame = await this.#deps.cache.get(id);
    if (!frame) return undefined;
    this.counts.diskHits += 1;
    this.#memory.set(hex, frame);
    return frame;
  }

  // Devices needn't wait for the disk, but the next fetch does: else frames would pile up before a slow one.
  async #fetchAndKeep(
    id: ChunkId,
    hex: string,
    from: ChunkStore,
    onFetched: (frame: Buffer) => void,
  ): Promise<void> {
    // It may have come for somebody else while this one waited for its turn.
    const known = this.#memory.get(hex);
    if (known) {
      onFetched(known);
      return;
    }
    const chunk = await from.get(id, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
    const bytes = chunk.frame();
    const frame = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#memory.set(hex, frame);
    onFetched(frame);
    await this.#deps.cache.put(id, frame);
  }

  #once<T>(underWay: Map<string, Promise<T>>, hex: string, make: () => Promise<T>): Promise<T> {
    const found = underWay.get(hex);
    if (found) return found;
    const making = make().finally(() => underWay.delete(hex));
    underWay.set(hex, making);
    return making;
  }
}

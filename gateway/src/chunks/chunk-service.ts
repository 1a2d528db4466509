import { type ChunkId, type ChunkStore, chunkIdToHex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';
import type { ChunkCache } from './chunk-cache.ts';

/** Chunks that are fetched over the WAN at one time. */
export const MAX_UPSTREAM_FETCHES = 16;
/** Chunks that wait for their turn; who comes later is asked to come again. */
const MAX_QUEUED_FETCHES = 2048;
const UPSTREAM_TIMEOUT_MS = 60_000;

interface ChunkServiceDeps {
  named: { has(id: ChunkId): boolean };
  cache: Pick<ChunkCache, 'get' | 'put' | 'use'>;
  /** The upstreams as one store, which verifies what it gives. */
  upstream: ChunkStore;
  onUpstreamBytes: (lengthBytes: number) => void;
  /** For frames in memory: devices that update at the same time ask for the same ones. */
  memoryBytes: number;
}

/** How a chunk was found, for the counters. */
export interface ChunkCounts {
  memoryHits: number;
  diskHits: number;
  upstreamFetches: number;
}

/**
 * Hands out chunks that a mirrored index names: from memory, from the disk, or from upstream. However many ask for one at
 * the same time, it's read or fetched once; who goes away meanwhile doesn't stop it for the others.
 */
export class ChunkService {
  readonly counts: ChunkCounts = { memoryHits: 0, diskHits: 0, upstreamFetches: 0 };
  readonly #deps: ChunkServiceDeps;
  readonly #memory: LRUCache<string, Buffer>;
  readonly #reading = new Map<string, Promise<Buffer | undefined>>();
  readonly #fetching = new Map<string, Promise<Buffer>>();
  readonly #turn = pLimit(MAX_UPSTREAM_FETCHES);

  constructor(deps: ChunkServiceDeps) {
    this.#deps = deps;
    this.#memory = new LRUCache({
      // At 1 no frame fits: none is kept.
      maxSize: Math.max(1, deps.memoryBytes),
      sizeCalculation: frame => frame.length + 256,
    });
  }

  /** Whether a mirrored index names it: else there's no use in asking. */
  isNamed(id: ChunkId): boolean {
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
   * @param isForwarded whether another gateway asks: then nobody else is asked for it
   * @returns the frame, verified; undefined if there's no such chunk
   * @throws SITECAST_STORE_UNREACHABLE, SITECAST_CHUNK_NOT_FOUND, SITECAST_CHUNK_MISMATCH …: no upstream gave it;
   *   SITECAST_BUSY
   */
  async get(id: ChunkId, { isForwarded }: { isForwarded: boolean }): Promise<Buffer | undefined> {
    if (!this.isNamed(id)) return undefined;
    const hex = chunkIdToHex(id);
    const here = this.inMemory(hex) ?? (await this.#once(this.#reading, hex, () => this.#read(id, hex)));
    if (here) return here;
    // One that's on its way already may be waited for by anybody.
    if (isForwarded) return this.#fetching.get(hex);
    return this.#once(this.#fetching, hex, () => this.#fetchInTurn(id, hex));
  }

  async #read(id: ChunkId, hex: string): Promise<Buffer | undefined> {
    const frame = await this.#deps.cache.get(id);
    if (!frame) return undefined;
    this.counts.diskHits += 1;
    this.#memory.set(hex, frame);
    return frame;
  }

  async #fetchInTurn(id: ChunkId, hex: string): Promise<Buffer> {
    if (this.#turn.pendingCount >= MAX_QUEUED_FETCHES)
      throw new SitecastError('unreachable', 'SITECAST_BUSY', 'too many chunks are being fetched already');
    return new Promise((resolve, reject) => {
      void this.#turn(() => this.#fetchAndKeep(id, hex, resolve).catch(reject));
    });
  }

  // Devices needn't wait for the disk, but the next fetch does: else frames would pile up before a slow one.
  async #fetchAndKeep(id: ChunkId, hex: string, onFetched: (frame: Buffer) => void): Promise<void> {
    const frame = await this.#fetch(id);
    this.#memory.set(hex, frame);
    onFetched(frame);
    await this.#deps.cache.put(id, frame);
  }

  async #fetch(id: ChunkId): Promise<Buffer> {
    const { upstream, onUpstreamBytes } = this.#deps;
    this.counts.upstreamFetches += 1;
    const chunk = await upstream.get(id, { signal: AbortSignal.timeout(UPSTREAM_TIMEOUT_MS) });
    const bytes = chunk.frame();
    onUpstreamBytes(bytes.length);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #once<T>(underWay: Map<string, Promise<T>>, hex: string, make: () => Promise<T>): Promise<T> {
    const found = underWay.get(hex);
    if (found) return found;
    const making = make().finally(() => underWay.delete(hex));
    underWay.set(hex, making);
    return making;
  }
}

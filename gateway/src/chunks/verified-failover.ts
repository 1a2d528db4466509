import {
  type Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  MAX_CHUNK_BYTES,
  verifyFrame,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';

/** How long a store that failed comes last. */
export const SHUN_MS = 10_000;

interface VerifiedFailoverOptions {
  now: () => number;
  /** A store gave something wrong. */
  onRefused: (store: string, error: SitecastError) => void;
}

/**
 * Asks stores in their order, until one gives the right chunk; one that can't be reached, or lied, comes last for a while.
 */
export class VerifiedFailover implements ChunkStore {
  readonly name = 'upstreams';
  readonly #stores: readonly ChunkStore[];
  readonly #options: VerifiedFailoverOptions;
  readonly #shunnedUntilMs = new Map<ChunkStore, number>();
  readonly #scratch = Buffer.allocUnsafeSlow(MAX_CHUNK_BYTES);

  constructor(stores: readonly ChunkStore[], options: VerifiedFailoverOptions) {
    this.#stores = stores;
    this.#options = options;
  }

  async has(id: ChunkId, request: ChunkRequest = {}): Promise<boolean> {
    return this.#first(store => store.has(id, request), request);
  }

  /** @returns a chunk that was verified @throws the last store's error */
  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    return this.#first(async store => {
      const chunk = await store.get(id, request);
      verifyFrame(id, chunk.frame(), this.#scratch);
      return chunk;
    }, request);
  }

  async #first<T>(ask: (store: ChunkStore) => Promise<T>, { signal }: ChunkRequest): Promise<T> {
    const { now, onRefused } = this.#options;
    let last: SitecastError | undefined;
    for (const store of this.#inOrder()) {
      try {
        return await ask(store);
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof SitecastError)) throw error;
        last = error;
        if (error.kind === 'notFound') continue;
        this.#shunnedUntilMs.set(store, now() + SHUN_MS);
        if (error.kind === 'untrusted' || error.kind === 'tooLarge') onRefused(store.name, error);
      }
    }
    throw last ?? new TypeError('there are no upstreams');
  }

  #inOrder(): ChunkStore[] {
    const nowMs = this.#options.now();
    const isShunned = (store: ChunkStore): boolean => (this.#shunnedUntilMs.get(store) ?? 0) > nowMs;
    return [
      ...this.#stores.filter(store => !isShunned(store)),
      ...this.#stores.filter(store => isShunned(store)),
    ];
  }
}

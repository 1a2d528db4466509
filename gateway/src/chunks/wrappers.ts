import { type Chunk, type ChunkStore, chunkNotFound } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';

/**
 * Asks stores in order. Only a store that lacks the chunk passes the question on; any other error ends it.
 * @throws from `get` what the last store says
 */
export function firstHolding(stores: readonly ChunkStore[]): ChunkStore {
  const self: ChunkStore = {
    name: stores.map(({ name }) => name).join(', '),
    has: async (id, request) => {
      for (const store of stores) if (await store.has(id, request)) return true;
      return false;
    },
    get: async (id, request) => {
      // An error is made only where it is thrown: its stack costs more than reading a chunk.
      let last: SitecastError | undefined;
      for (const store of stores) {
        try {
          return await store.get(id, request);
        } catch (error) {
          if (!isNotFound(error)) throw error;
          last = error;
        }
      }
      throw last ?? chunkNotFound(id, self);
    },
  };
  return self;
}

/** Calls back for each chunk that the store gives. */
export function counted(store: ChunkStore, onGiven: (chunk: Chunk) => void): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request) => {
      const chunk = await store.get(id, request);
      onGiven(chunk);
      return chunk;
    },
  };
}

/** @param demandOpen throws while the store must not be asked */
export function whileOpen(store: ChunkStore, demandOpen: () => void): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request) => {
      demandOpen();
      return store.get(id, request);
    },
  };
}

export function isNotFound(error: unknown): error is SitecastError {
  return error instanceof SitecastError && error.code === 'SITECAST_CHUNK_NOT_FOUND';
}

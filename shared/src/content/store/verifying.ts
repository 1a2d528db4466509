import type { ChunkStore } from './chunk-store.ts';

/**
 * A store that gives only chunks that were checked against their id.
 * @throws from `get` also SITECAST_CHUNK_MISMATCH
 */
export function verifying(store: ChunkStore): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request = {}) => (await store.get(id, request)).verify(request.lengthBytes, request.into),
  };
}

import { SitecastError } from '../../errors.ts';
import type { ChunkStore } from './chunk-store.ts';
import { isWrongBytes } from './source-selector.ts';

/**
 * A store that gives only chunks that were checked against their id.
 * @param onRefused called when the store gave something else than the chunk
 * @throws from `get` also SITECAST_CHUNK_MISMATCH
 */
export function verifying(
  store: ChunkStore,
  onRefused?: (store: string, error: SitecastError) => void,
): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request = {}) => {
      try {
        return (await store.get(id, request)).verify(request.lengthBytes, request.into);
      } catch (error) {
        if (error instanceof SitecastError && isWrongBytes(error)) onRefused?.(store.name, error);
        throw error;
      }
    },
  };
}

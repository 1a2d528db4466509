import { type ChunkStore, verifying } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';

/**
 * A store that gives only chunks that were checked. One that gave wrong bytes counts as out of reach, so that a failover
 * lets it rest: else each of its lies would cross the WAN before the right chunk does.
 * @throws from `get` SITECAST_STORE_UNREACHABLE for wrong bytes, too
 */
export function verifyOrUnavailable(
  store: ChunkStore,
  onRefused: (store: string, error: SitecastError) => void,
): ChunkStore {
  const checked = verifying(store);
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request) => {
      try {
        return await checked.get(id, request);
      } catch (error) {
        const isLie =
          error instanceof SitecastError && (error.kind === 'untrusted' || error.kind === 'tooLarge');
        if (!isLie) throw error;
        onRefused(store.name, error);
        throw new SitecastError(
          'unreachable',
          'SITECAST_STORE_UNREACHABLE',
          `${store.name} gave something else than the chunk`,
          { data: error.data, cause: error },
        );
      }
    },
  };
}

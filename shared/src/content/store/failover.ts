import { SitecastError } from '../../errors.ts';
import { type ChunkId, chunkIdToHex } from '../chunk-id.ts';
import { type ChunkStore, chunkNotFound } from './chunk-store.ts';
import { isAbsent, isWrongBytes, SourceSelector, type SourceSelectorOptions } from './source-selector.ts';

const DEFAULT_REST_MS = 10_000;

export interface FailoverOptions extends Pick<SourceSelectorOptions, 'now'> {
  /** A store that couldn't be reached is asked last for so long. */
  readonly restMs?: number;
  /** `rest`: a store that gave wrong bytes counts as one that couldn't be reached, else as one that lacks the chunk. Default: `pass`. */
  readonly wrongBytes?: 'pass' | 'rest';
}

/**
 * Asks an ordered list of stores until one gives the chunk. One that lacks it, can't be reached or gives wrong bytes (wrap
 * it in `verifying`) is passed over for the next; one that couldn't be reached rests, so that not every chunk waits for it.
 * When none gives it, the error says what might help: SITECAST_STORE_UNREACHABLE if one counts as unreachable, else
 * SITECAST_CHUNK_MISMATCH or SITECAST_FRAME_TOO_LARGE if one gave wrong bytes, else SITECAST_CHUNK_NOT_FOUND.
 */
export function failover(stores: readonly ChunkStore[], options: FailoverOptions = {}): ChunkStore {
  const selector = new SourceSelector(stores, { restMs: DEFAULT_REST_MS, ...options });
  const isAsAbsent = (error: SitecastError): boolean =>
    isAbsent(error) || (options.wrongBytes !== 'rest' && isWrongBytes(error));
  const allFailed = (id: ChunkId, errors: readonly SitecastError[]): SitecastError => {
    if (!errors.every(isAsAbsent)) return allUnreachable(id, self, errors);
    return errors.find(isWrongBytes) ?? chunkNotFound(id, self);
  };
  const self: ChunkStore = {
    name: stores.map(store => store.name).join(', '),
    has: async (id, request = {}) => {
      const failures = new Map<string, SitecastError>();
      if (await selector.has(id, request, failures)) return true;
      if (failures.size > 0) throw allFailed(id, [...failures.values()]);
      return false;
    },
    get: async (id, request = {}) => {
      const failures = new Map<string, SitecastError>();
      const chunk = await selector.get(id, request, failures);
      if (!chunk) throw allFailed(id, [...failures.values()]);
      return chunk;
    },
  };
  return self;
}

function allUnreachable(id: ChunkId, store: ChunkStore, errors: readonly SitecastError[]): SitecastError {
  const hex = chunkIdToHex(id);
  return new SitecastError(
    'unreachable',
    'SITECAST_STORE_UNREACHABLE',
    `nobody gave chunk ${hex}: ${store.name}`,
    {
      data: { id: hex, store: store.name },
      cause: new AggregateError(errors),
    },
  );
}

import { SitecastError } from '../../errors.ts';
import { type ChunkId, chunkIdToHex } from '../chunk-id.ts';
import { type ChunkRequest, type ChunkStore, chunkNotFound } from './chunk-store.ts';

const DEFAULT_REST_MS = 10_000;
const ABSENT = ['SITECAST_CHUNK_NOT_FOUND'];
const WRONG = ['SITECAST_CHUNK_MISMATCH', 'SITECAST_FRAME_TOO_LARGE'];

export interface FailoverOptions {
  /** A store that couldn't be reached is asked last for so long. */
  readonly restMs?: number;
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number;
}

/**
 * Asks an ordered list of stores until one gives the chunk. One that lacks it, can't be reached or gives wrong bytes (wrap
 * it in `verifying`) is passed over for the next; one that couldn't be reached rests, so that not every chunk waits for it.
 * When none gives it, the error says what might help: SITECAST_STORE_UNREACHABLE if one couldn't be asked, else
 * SITECAST_CHUNK_MISMATCH or SITECAST_FRAME_TOO_LARGE if one gave wrong bytes, else SITECAST_CHUNK_NOT_FOUND.
 */
export function failover(stores: readonly ChunkStore[], options: FailoverOptions = {}): ChunkStore {
  const { restMs = DEFAULT_REST_MS, now = () => performance.now() } = options;
  const restsUntil = new Map<ChunkStore, number>();
  const isResting = (store: ChunkStore) => (restsUntil.get(store) ?? Number.NEGATIVE_INFINITY) > now();

  async function ask<T>(request: ChunkRequest, question: (store: ChunkStore) => Promise<T | undefined>) {
    const errors: unknown[] = [];
    const awake = stores.filter(store => !isResting(store));
    for (const store of [...awake, ...stores.filter(store => !awake.includes(store))]) {
      request.signal?.throwIfAborted();
      try {
        const answer = await question(store);
        restsUntil.delete(store);
        if (answer !== undefined) return { answer, errors };
      } catch (error) {
        request.signal?.throwIfAborted();
        if (!hasCode(error, ...ABSENT, ...WRONG)) restsUntil.set(store, now() + restMs);
        errors.push(error);
      }
    }
    return { answer: undefined, errors };
  }

  const self: ChunkStore = {
    name: stores.map(store => store.name).join(', '),
    has: async (id, request = {}) => {
      const { answer, errors } = await ask(
        request,
        async store => (await store.has(id, request)) || undefined,
      );
      if (answer === undefined && errors.length > 0) throw allFailed(id, self, errors);
      return answer ?? false;
    },
    get: async (id, request = {}) => {
      const { answer, errors } = await ask(request, store => store.get(id, request));
      if (answer === undefined) throw allFailed(id, self, errors);
      return answer;
    },
  };
  return self;
}

function allFailed(id: ChunkId, store: ChunkStore, errors: readonly unknown[]): unknown {
  if (errors.every(error => hasCode(error, ...ABSENT))) return chunkNotFound(id, store);
  const wrong = errors.find(error => hasCode(error, ...WRONG));
  if (wrong !== undefined && errors.every(error => hasCode(error, ...ABSENT, ...WRONG))) return wrong;
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

function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof SitecastError && codes.includes(error.code);
}

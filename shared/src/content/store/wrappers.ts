import { orAborted } from '../../async/index.ts';
import { SitecastError } from '../../errors.ts';
import type { Chunk } from '../chunk.ts';
import { type ChunkId, chunkIdToHex } from '../chunk-id.ts';
import { type ChunkRequest, type ChunkStore, chunkNotFound, isNotFound } from './chunk-store.ts';
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

/** Gives each chunk with the shortest frame: what came uncompressed, from devices' slots, is compressed. */
export function compacting(store: ChunkStore): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: (id, request) => store.get(id, request).then(chunk => chunk.compact()),
  };
}

/** Calls back for each chunk that the store gives. */
export function counted(store: ChunkStore, onGiven: (chunk: Chunk) => void): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: (id, request) =>
      store.get(id, request).then(chunk => {
        onGiven(chunk);
        return chunk;
      }),
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

/** One fetch under way, and the number of requesters that wait for it. */
interface Flight {
  readonly chunk: Promise<Chunk>;
  /** Undefined where the first requester has no signal: it never gives up, so the fetch is never called off. */
  readonly stop: AbortController | undefined;
  requesters: number;
  isOver: boolean;
}

/**
 * A store that fetches a chunk once for all requests that come while the fetch is under way. A requester that gives up leaves the
 * others waiting; when the last one gives up, the fetch is called off. Nothing is kept once a fetch has ended.
 */
export function coalescing(store: ChunkStore): ChunkStore {
  const flights = new Map<string, Flight>();

  const start = (id: ChunkId, key: string, canGiveUp: boolean): Flight => {
    const stop = canGiveUp ? new AbortController() : undefined;
    // A copy: the first requester's id may lie in memory that is used again before the last requester is served.
    const chunk = store.get(new Uint8Array(id), stop && { signal: stop.signal });
    const flight = { chunk, stop, requesters: 0, isOver: false };
    flights.set(key, flight);
    const end = () => {
      flight.isOver = true;
      if (flights.get(key) === flight) flights.delete(key);
    };
    // The waiting requesters get a failure; `end` only clears up.
    chunk.then(end, end);
    return flight;
  };

  const get = async (id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> => {
    signal?.throwIfAborted();
    const key = chunkIdToHex(id);
    const flight = flights.get(key) ?? start(id, key, signal !== undefined);
    flight.requesters += 1;
    try {
      return await (signal ? orAborted(flight.chunk, signal) : flight.chunk);
    } finally {
      flight.requesters -= 1;
      if (flight.requesters === 0 && !flight.isOver) {
        // A later request must not join a fetch that is being called off.
        if (flights.get(key) === flight) flights.delete(key);
        flight.stop?.abort(signal?.reason);
      }
    }
  };

  return { name: store.name, has: (id, request) => store.has(id, request), get };
}

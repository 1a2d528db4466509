import { Chunk, type ChunkStore, chunkIdToHex, coalescing, failover } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { FrameMemory } from './memory-cache.ts';
import { verifyOrUnavailable } from './verify-or-unavailable.ts';

interface WanStoreDeps {
  upstreams: readonly { url: string; isOrigin: boolean; chunks: ChunkStore }[];
  memory: Pick<FrameMemory, 'get' | 'set'>;
  /** @throws where nothing is to be fetched now */
  demandOpen: () => void;
  onRefused: (url: string, error: SitecastError) => void;
  /** Called for each chunk that came over the WAN. */
  onFetched: (lengthBytes: number) => void;
}

/** What comes over the WAN: each chunk once at a time, whoever asks, verified and counted. */
export function wanStores({ upstreams, memory, demandOpen, onRefused, onFetched }: WanStoreDeps): {
  /** The upstreams in their order. */
  wan: ChunkStore;
  /** The origin alone; undefined where there's none. */
  origin: ChunkStore | undefined;
} {
  const stores = upstreams.map(({ chunks, isOrigin }) => ({
    isOrigin,
    store: coalescing(remembering(verifyOrUnavailable(chunks, onRefused), { memory, onFetched })),
  }));
  const origin = stores.find(({ isOrigin }) => isOrigin)?.store;
  return {
    wan: whileOpen(failover(stores.map(({ store }) => store)), demandOpen),
    origin: origin && whileOpen(origin, demandOpen),
  };
}

function whileOpen(store: ChunkStore, demandOpen: () => void): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request) => {
      demandOpen();
      return store.get(id, request);
    },
  };
}

/**
 * Who finds no chunk here asks around before he fetches it: it may have come meanwhile for somebody else. So it's looked for once
 * more, and lies in memory before the fetch ends that others would join.
 */
function remembering(
  store: ChunkStore,
  { memory, onFetched }: Pick<WanStoreDeps, 'memory' | 'onFetched'>,
): ChunkStore {
  return {
    name: store.name,
    has: (id, request) => store.has(id, request),
    get: async (id, request) => {
      const hex = chunkIdToHex(id);
      const here = memory.get(hex);
      if (here) return Chunk.fromFrame(id, here);
      const chunk = await store.get(id, request);
      const bytes = chunk.frame();
      memory.set(hex, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
      onFetched(bytes.length);
      return chunk;
    },
  };
}

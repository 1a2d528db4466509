import { Chunk, type ChunkStore, chunkIdToHex, coalescing, failover } from '@sitecast/shared/content';
import type { SitecastError } from '@sitecast/shared/errors';
import type { FrameMemory } from './frame-memory.ts';
import { restingLiar } from './resting-liar.ts';

interface WanStoreDeps {
  upstreams: readonly { url: string; isOrigin: boolean; chunks: ChunkStore }[];
  memory: Pick<FrameMemory, 'get' | 'set'>;
  onRefused: (url: string, error: SitecastError) => void;
  /** Called for each chunk that came over the WAN. */
  onFetched: (lengthBytes: number) => void;
}

/** What comes over the WAN: each chunk once at a time, whoever asks, verified and counted. */
export function wanStores({ upstreams, memory, onRefused, onFetched }: WanStoreDeps): {
  /** The upstreams in their order. */
  wan: ChunkStore;
  /** The origin alone; undefined where there's none. */
  origin: ChunkStore | undefined;
} {
  const stores = upstreams.map(({ chunks, isOrigin }) => ({
    isOrigin,
    store: coalescing(remembering(restingLiar(chunks, onRefused), memory, onFetched)),
  }));
  return {
    wan: failover(stores.map(({ store }) => store)),
    origin: stores.find(({ isOrigin }) => isOrigin)?.store,
  };
}

/**
 * Who finds no chunk here asks around before he fetches it: it may have come meanwhile for somebody else. So it's looked for once
 * more, and lies in memory before the fetch ends that others would join.
 */
function remembering(
  store: ChunkStore,
  memory: WanStoreDeps['memory'],
  onFetched: (lengthBytes: number) => void,
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

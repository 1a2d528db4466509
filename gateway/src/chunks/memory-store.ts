import { Chunk, type ChunkId, type ChunkStore, chunkIdToHex, chunkNotFound } from '@sitecast/shared/content';
import { lruCache, type LruCache } from '@sitecast/shared/bounded';

/** What an entry costs besides its frame, about. */
const ENTRY_BYTES = 256;

/** Verified frames in memory, the most recently used: devices that update at the same time ask for the same chunks. */
export class MemoryStore implements ChunkStore {
  readonly name = 'the memory of this gateway';
  readonly #frames: LruCache<string, Buffer>;

  /** @param maxBytes bound of all frames together; 0: none is kept */
  constructor(maxBytes: number) {
    this.#frames = lruCache({
      maxBytes,
      bytesOf: frame => frame.length + ENTRY_BYTES,
    });
  }

  /** The frame, without a turn of the event loop. */
  frame(hex: string): Buffer | undefined {
    return this.#frames.get(hex);
  }

  async has(id: ChunkId, { signal }: { signal?: AbortSignal } = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return this.#frames.has(chunkIdToHex(id));
  }

  async get(id: ChunkId, { signal }: { signal?: AbortSignal } = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const frame = this.frame(chunkIdToHex(id));
    if (!frame) throw chunkNotFound(id, this);
    return Chunk.fromFrame(id, frame);
  }

  /** @param chunk verified by the caller */
  put(chunk: Chunk): void {
    this.#frames.set(chunkIdToHex(chunk.id), frameOf(chunk));
  }
}

/** A chunk's frame as a buffer over the same memory. */
export function frameOf(chunk: Chunk): Buffer {
  const frame = chunk.frame();
  return Buffer.isBuffer(frame) ? frame : Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength);
}

/**
 * A store of verified chunks with memory before it: what the store gives is kept there.
 * @param onHit called with the id of a chunk that the memory had
 */
export function memoryCache(
  memory: MemoryStore,
  store: ChunkStore,
  onHit?: (hex: string) => void,
): ChunkStore {
  return {
    name: store.name,
    has: async (id, request) => (await memory.has(id, request)) || store.has(id, request),
    get: async (id, request) => {
      request?.signal?.throwIfAborted();
      const hex = chunkIdToHex(id);
      const frame = memory.frame(hex);
      if (frame) {
        onHit?.(hex);
        return Chunk.fromFrame(id, frame);
      }
      const chunk = await store.get(id, request);
      memory.put(chunk);
      return chunk;
    },
  };
}

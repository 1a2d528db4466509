// For tests only: chunks in memory.
import { noise } from '../../content/fixtures.ts';
import { Chunk, type ChunkId, type ChunkStore, chunkIdOf, chunkIdToHex } from '../../content/index.ts';
import { chunkNotFound } from '../../content/store/chunk-store.ts';

export class MemoryStore implements ChunkStore {
  readonly name = 'memory';
  readonly #chunks = new Map<string, Chunk>();
  /** Chunks returned so far. */
  readonly given: string[] = [];

  put(...chunks: readonly Chunk[]): void {
    for (const chunk of chunks) this.#chunks.set(chunkIdToHex(chunk.id), chunk);
  }

  async has(id: ChunkId): Promise<boolean> {
    return this.#chunks.has(chunkIdToHex(id));
  }

  async get(id: ChunkId): Promise<Chunk> {
    const hex = chunkIdToHex(id);
    const chunk = this.#chunks.get(hex);
    if (!chunk) throw chunkNotFound(id, this);
    this.given.push(hex);
    return chunk;
  }
}

/** Different chunks of incompressible bytes. */
export function noiseChunks(count: number, lengthBytes: number, seed = 'chunks'): Chunk[] {
  return Array.from({ length: count }, (_, at) => {
    const plain = noise(lengthBytes, `${seed} ${at}`);
    return Chunk.fromPlain(chunkIdOf(plain), plain);
  });
}

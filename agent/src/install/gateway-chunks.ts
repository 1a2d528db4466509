import { Chunk, type ChunkId, type ChunkRequest, type ChunkStore } from '@sitecast/shared/content';
import type { ChunkSources } from './sources.ts';

/** A device's gateways as one store: they fail over, and who lies is left, as where there are no peers. */
export class GatewayChunks implements ChunkStore {
  readonly name = 'the gateways';
  readonly #sources: ChunkSources;
  readonly #maxBytes: number;

  /** @param maxBytes of the image's longest chunk */
  constructor(sources: ChunkSources, maxBytes: number) {
    this.#sources = sources;
    this.#maxBytes = maxBytes;
  }

  /** They may have any chunk: asking for it is the way to know. */
  async has(_id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return true;
  }

  /** @throws as `ChunkSources.fetch` */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    const plain = await this.#sources.fetch(id, {
      lengthBytes: this.#maxBytes,
      into: Buffer.allocUnsafe(this.#maxBytes),
      signal: signal ?? new AbortController().signal,
    });
    return Chunk.fromPlain(id, plain);
  }
}

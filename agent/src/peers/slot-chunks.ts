import {
  Chunk,
  type ChunkId,
  type ChunkIndex,
  type ChunkRequest,
  type ChunkStore,
  chunkNotFound,
} from '@sitecast/shared/content';
import type { SlotReader } from '../ports.ts';

/** The chunks of an image, read from their places in a slot, and verified before they are returned. */
export class SlotChunks implements ChunkStore {
  readonly name: string;
  readonly #index: ChunkIndex;
  readonly #reader: SlotReader;

  /** @param reader the caller closes it once the store isn't used any more */
  constructor(name: string, index: ChunkIndex, reader: SlotReader) {
    this.name = name;
    this.#index = index;
    this.#reader = reader;
  }

  /** Whether the image has the chunk. Only reading shows whether the slot has it. */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return this.#index.find(id) !== undefined;
  }

  /** @throws SITECAST_CHUNK_NOT_FOUND, also where something else lies in its place: it isn't here, or not yet */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const at = this.#index.find(id);
    if (at === undefined) throw chunkNotFound(id, this);
    const plain = Buffer.allocUnsafe(this.#index.lengthOf(at));
    if (!(await this.#reader.readInto(this.#index.startOf(at), plain))) throw chunkNotFound(id, this);
    const chunk = Chunk.fromPlain(id, plain);
    try {
      return chunk.verify();
    } catch (cause) {
      throw chunkNotFound(id, this, cause);
    }
  }
}

import {
  Chunk,
  type ChunkId,
  type ChunkIndex,
  type ChunkRequest,
  type ChunkStore,
  sameChunkId,
  chunkNotFound,
} from '@sitecast/shared/content';
import type { SlotReader } from '../ports.ts';

/** The chunks of an image, read from their places in a slot, and verified before they are returned. */
export class SlotChunks implements ChunkStore {
  readonly name: string;
  readonly #index: ChunkIndex;
  readonly #reader: SlotReader;
  /** Numbers of all chunks, ordered by id: four bytes a chunk. */
  readonly #byId: Uint32Array;

  /** @param reader the caller closes it once the store isn't used any more */
  constructor(name: string, index: ChunkIndex, reader: SlotReader) {
    this.name = name;
    this.#index = index;
    this.#reader = reader;
    this.#byId = Uint32Array.from({ length: index.count }, (_, at) => at).sort((one, other) =>
      Buffer.compare(index.idAt(one), index.idAt(other)),
    );
  }

  /** Whether the image has the chunk. Only reading shows whether the slot has it. */
  async has(id: ChunkId, { signal }: ChunkRequest = {}): Promise<boolean> {
    signal?.throwIfAborted();
    return this.#find(id) !== undefined;
  }

  /** @throws SITECAST_CHUNK_NOT_FOUND, also where something else lies in its place: it isn't here, or not yet */
  async get(id: ChunkId, { signal }: ChunkRequest = {}): Promise<Chunk> {
    signal?.throwIfAborted();
    const at = this.#find(id);
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

  #find(id: ChunkId): number | undefined {
    let [low, high] = [0, this.#byId.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (Buffer.compare(this.#index.idAt(this.#byId[middle] ?? 0), id) < 0) low = middle + 1;
      else high = middle;
    }
    const at = this.#byId[low];
    return at !== undefined && sameChunkId(this.#index.idAt(at), id) ? at : undefined;
  }
}

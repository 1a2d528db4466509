import type { ChunkId } from './chunk-id.ts';
import { ChunkIdSet } from './chunk-id-set.ts';
import type { ChunkIndex } from './chunk-index.ts';

/** Finds chunks of an image by their ids: about 50 bytes a chunk. */
export class ChunkNumbers {
  readonly #ids = new ChunkIdSet();
  /** By an id's place in `#ids`. */
  readonly #numbers: Uint32Array;

  constructor(index: ChunkIndex) {
    this.#numbers = new Uint32Array(index.count);
    for (let at = 0; at < index.count; at += 1) {
      const id = index.idAt(at);
      if (this.#ids.add(id)) this.#numbers[this.#ids.size - 1] = at;
    }
  }

  /** Number of the chunk in the index, the first one where the image repeats it; undefined where it has no such chunk. */
  find(id: ChunkId): number | undefined {
    const position = this.#ids.positionOf(id);
    return position === undefined ? undefined : this.#numbers[position];
  }
}

import type { ChunkIndex } from '@sitecast/shared/content';
import type { MissingChunks } from './compare.ts';

/**
 * The missing chunks of an image, each id once: where an image repeats a chunk (runs of zeros), it is fetched once and
 * written wherever it belongs.
 */
export class MissingPlaces {
  readonly #index: ChunkIndex;
  readonly #missing: MissingChunks;
  /** Places of chunks that `take` gave at an earlier place. */
  readonly #isRepeated: Uint8Array;
  #cursor = 0;

  constructor(index: ChunkIndex, missing: MissingChunks) {
    this.#index = index;
    this.#missing = missing;
    this.#isRepeated = new Uint8Array(index.count);
  }

  /** The number of the next chunk to fetch, in the image's order; undefined when there are no more. */
  take(): number | undefined {
    while (this.#cursor < this.#index.count) {
      const at = this.#cursor;
      this.#cursor += 1;
      if (!this.#missing.has(at) || this.#isRepeated[at] === 1) continue;
      for (const place of this.placesOf(at)) this.#isRepeated[place] = 1;
      return at;
    }
    return undefined;
  }

  /** Everything that `take` would return from now on. */
  *firsts(): Generator<number> {
    for (let at = this.take(); at !== undefined; at = this.take()) yield at;
  }

  /** All missing places of the chunk that `take` gave: chunk numbers. */
  *placesOf(first: number): Generator<number> {
    for (let at: number | undefined = first; at !== undefined; at = this.#index.nextSame(at))
      if (this.#missing.has(at)) yield at;
  }
}

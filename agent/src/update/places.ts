import { type ChunkIndex, sameChunkId } from '@sitecast/shared/content';
import type { MissingChunks } from './compare.ts';

const NONE = 0xffff_ffff;

/**
 * The missing chunks of an image, each id once: where an image repeats a chunk (runs of zeros), it is fetched once and
 * written wherever it belongs. Eight bytes a chunk of the image, whatever its length.
 */
export class MissingPlaces {
  readonly #index: ChunkIndex;
  /** For each chunk the next chunk with the same id. */
  readonly #next: Uint32Array;
  readonly #isFirst: Uint8Array;
  #cursor = 0;

  constructor(index: ChunkIndex, missing: MissingChunks) {
    this.#index = index;
    this.#next = new Uint32Array(index.count).fill(NONE);
    this.#isFirst = new Uint8Array(index.count);
    this.#link(missing);
  }

  /** The number of the next chunk to fetch, in the image's order; undefined when there are no more. */
  take(): number | undefined {
    while (this.#cursor < this.#index.count) {
      const at = this.#cursor;
      this.#cursor += 1;
      if (this.#isFirst[at] === 1) return at;
    }
    return undefined;
  }

  /** Everything that `take` would return from now on. */
  *firsts(): Generator<number> {
    for (let at = this.take(); at !== undefined; at = this.take()) yield at;
  }

  /** All places of the chunk that `take` returned, as chunk numbers. */
  *placesOf(first: number): Generator<number> {
    for (let at = first; at !== NONE; at = this.#next[at] ?? NONE) yield at;
  }

  #link(missing: MissingChunks): void {
    const slots = new Uint32Array(2 ** Math.ceil(Math.log2(Math.max(2, missing.count * 2)))).fill(NONE);
    for (let at = 0; at < this.#index.count; at += 1) {
      if (!missing.has(at)) continue;
      const slot = this.#slotOf(slots, at);
      const first = slots[slot] ?? NONE;
      if (first === NONE) {
        slots[slot] = at;
        this.#isFirst[at] = 1;
        continue;
      }
      this.#next[at] = this.#next[first] ?? NONE;
      this.#next[first] = at;
    }
  }

  /** The ids are SHA-256 by signed metadata, so their first bytes serve as the hash. */
  #slotOf(slots: Uint32Array, at: number): number {
    const id = this.#index.idAt(at);
    const mask = slots.length - 1;
    let slot = ((id[0] ?? 0) | ((id[1] ?? 0) << 8) | ((id[2] ?? 0) << 16) | ((id[3] ?? 0) << 24)) & mask;
    for (;;) {
      const found = slots[slot] ?? NONE;
      if (found === NONE || sameChunkId(this.#index.idAt(found), id)) return slot;
      slot = (slot + 1) & mask;
    }
  }
}

import { type ChunkId, sameChunkId } from './chunk-id.ts';

const NONE = 0xffff_ffff;
const MIN_SLOTS = 2;

/** What is needed of an index. */
interface Ids {
  readonly count: number;
  idAt(at: number): ChunkId;
}

/** The numbers of an index's chunks by their ids: at most 20 bytes a chunk. (An open-addressed table of first places, and links from each to the next.) */
export class ChunkNumbers {
  readonly #ids: Ids;
  readonly #slots: Uint32Array;
  readonly #next: Uint32Array;

  constructor(ids: Ids) {
    this.#ids = ids;
    this.#slots = new Uint32Array(2 ** Math.ceil(Math.log2(Math.max(MIN_SLOTS, ids.count * 2)))).fill(NONE);
    this.#next = new Uint32Array(ids.count).fill(NONE);
    // From the last to the first, so that each finds those behind it.
    for (let at = ids.count - 1; at >= 0; at -= 1) {
      const slot = this.#slotOf(ids.idAt(at));
      this.#next[at] = this.#slots[slot] ?? NONE;
      this.#slots[slot] = at;
    }
  }

  find(id: ChunkId): number | undefined {
    const at = this.#slots[this.#slotOf(id)] ?? NONE;
    return at === NONE ? undefined : at;
  }

  nextSame(at: number): number | undefined {
    const next = this.#next[at] ?? NONE;
    return next === NONE ? undefined : next;
  }

  /** Ids are SHA-256, and those of the table come from signed metadata: their first bytes are hash enough. */
  #slotOf(id: ChunkId): number {
    const mask = this.#slots.length - 1;
    let slot = ((id[0] ?? 0) | ((id[1] ?? 0) << 8) | ((id[2] ?? 0) << 16) | ((id[3] ?? 0) << 24)) & mask;
    for (;;) {
      const found = this.#slots[slot] ?? NONE;
      if (found === NONE || sameChunkId(this.#ids.idAt(found), id)) return slot;
      slot = (slot + 1) & mask;
    }
  }
}

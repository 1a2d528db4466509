import { type ChunkId, sameChunkId } from './chunk-id.ts';
import { chunkIdHash } from './chunk-id-hash.ts';

const NONE = 0xffff_ffff;
const MIN_SLOTS = 2;

/** The part of an index that is used. */
interface Ids {
  readonly count: number;
  idAt(at: number): ChunkId;
}

/** The numbers of an index's chunks by their ids: at most 20 bytes a chunk. (An open-addressed table of first places, and links from each to the next.) */
export class ChunkNumbers {
  readonly #ids: Ids;
  readonly #slots: Uint32Array;
  readonly #next: Uint32Array;
  /** How many bits of the hash aren't used for the slot's number. */
  readonly #shift: number;

  constructor(ids: Ids) {
    this.#ids = ids;
    const slotBits = Math.ceil(Math.log2(Math.max(MIN_SLOTS, ids.count * 2)));
    this.#slots = new Uint32Array(2 ** slotBits).fill(NONE);
    this.#shift = 32 - slotBits;
    this.#next = new Uint32Array(ids.count).fill(NONE);
    // From the last to the first, so that each entry links to the later ones.
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

  /** The slot that holds the id, or the empty one where it belongs. */
  #slotOf(id: ChunkId): number {
    const mask = this.#slots.length - 1;
    let slot = chunkIdHash(id) >>> this.#shift;
    for (;;) {
      const found = this.#slots[slot] ?? NONE;
      if (found === NONE || sameChunkId(this.#ids.idAt(found), id)) return slot;
      slot = (slot + 1) & mask;
    }
  }
}

import { CHUNK_ID_BYTES, type ChunkId, sameChunkId } from './chunk-id.ts';
import { chunkIdHash } from './chunk-id-hash.ts';

const FIRST_CAPACITY = 1024;
/** Slots are kept at most this full, so that probing stays short. */
const MAX_LOAD = 0.5;

/**
 * A set of chunk ids in two flat arrays: about 45 bytes an id, where a `Set` of hex strings takes several times that.
 * (An open-addressed table of positions into one buffer of ids.)
 */
export class ChunkIdSet {
  #ids = Buffer.allocUnsafe(FIRST_CAPACITY * MAX_LOAD * CHUNK_ID_BYTES);
  /** For each slot the position of an id plus one; 0 is an empty slot. */
  #slots = new Uint32Array(FIRST_CAPACITY);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(id: ChunkId): boolean {
    return this.#slots[this.#slotOf(id)] !== 0;
  }

  /** Number of ids that were added before this one; undefined if it isn't in the set. */
  positionOf(id: ChunkId): number | undefined {
    const position = this.#slots[this.#slotOf(id)] ?? 0;
    return position === 0 ? undefined : position - 1;
  }

  /** Adds a copy of the id; false if it was there already. */
  add(id: ChunkId): boolean {
    let slot = this.#slotOf(id);
    if (this.#slots[slot] !== 0) return false;
    if (this.#size >= this.#slots.length * MAX_LOAD) {
      this.#grow();
      slot = this.#slotOf(id);
    }
    this.#ids.set(id, this.#size * CHUNK_ID_BYTES);
    this.#size += 1;
    this.#slots[slot] = this.#size;
    return true;
  }

  /** All ids in the order in which they were added, 32 bytes each: a view that the next `add` may outdate. */
  bytes(): Buffer {
    return this.#ids.subarray(0, this.#size * CHUNK_ID_BYTES);
  }

  /** The slot that holds the id, or the empty one where it belongs. */
  #slotOf(id: ChunkId): number {
    const mask = this.#slots.length - 1;
    let slot = chunkIdHash(id) & mask;
    for (;;) {
      const position = this.#slots[slot] ?? 0;
      if (position === 0 || sameChunkId(this.#idAt(position - 1), id)) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #idAt(position: number): Buffer {
    return this.#ids.subarray(position * CHUNK_ID_BYTES, (position + 1) * CHUNK_ID_BYTES);
  }

  #grow(): void {
    const ids = Buffer.allocUnsafe(this.#ids.length * 2);
    ids.set(this.bytes());
    this.#ids = ids;
    this.#slots = new Uint32Array(this.#slots.length * 2);
    for (let position = 0; position < this.#size; position++) {
      this.#slots[this.#slotOf(this.#idAt(position))] = position + 1;
    }
  }
}

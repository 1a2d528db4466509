import { randomBytes } from 'node:crypto';
import { CHUNK_ID_BYTES, type ChunkId, sameChunkId } from './chunk-id.ts';

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
  readonly #factors = randomFactors();

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

  /**
   * Searches from the slot that the id's hash gives. Ids are SHA-256 only if the signer of the index was honest. With a predictable hash,
   * colliding ids would cost the square of their number.
   */
  #slotOf(id: ChunkId): number {
    const mask = this.#slots.length - 1;
    let slot = this.#hashOf(id) >>> this.#shift;
    for (;;) {
      const found = this.#slots[slot] ?? NONE;
      if (found === NONE || sameChunkId(this.#ids.idAt(found), id)) return slot;
      slot = (slot + 1) & mask;
    }
  }

  /** Multilinear hashing with random factors (Lemire and Kaser, "Strongly universal string hashing is fast"): its upper bits are used. */
  #hashOf(id: ChunkId): number {
    let hash = 0;
    for (let word = 0; word < this.#factors.length; word += 1) {
      const at = word * 4;
      const value =
        (id[at] ?? 0) | ((id[at + 1] ?? 0) << 8) | ((id[at + 2] ?? 0) << 16) | ((id[at + 3] ?? 0) << 24);
      hash = (hash + Math.imul(this.#factors[word] ?? 1, value)) | 0;
    }
    return hash >>> 0;
  }
}

function randomFactors(): Uint32Array {
  const bytes = randomBytes(CHUNK_ID_BYTES);
  // Multiplication by an odd factor keeps all bits of a word.
  return Uint32Array.from(
    { length: CHUNK_ID_BYTES / 4 },
    (_, word) => (bytes.readUInt32LE(word * 4) | 1) >>> 0,
  );
}

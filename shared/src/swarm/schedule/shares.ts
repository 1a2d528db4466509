import { sha256 } from '../../content/index.ts';

/**
 * Which of several machines fetches which chunk from a gateway, without messages between them: rendezvous hashing. Each machine has a
 * weight for each chunk, and the one with the highest weight fetches it. When a machine leaves, its chunks are spread over the others, and
 * no other chunk changes its owner. (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.)
 */
export class Shares {
  readonly #own: number;
  #others: number[] = [];

  /** @param self this machine's id */
  constructor(self: string) {
    this.#own = seedOf(self);
  }

  /** @param others ids of the machines that fetch the same image, without this one */
  setOthers(others: readonly string[]): void {
    this.#others = others.map(seedOf);
  }

  /** How many of the other machines rank before this one for a chunk. 0: this machine owns it. */
  rankOf(id: Uint8Array): number {
    const word = wordOf(id);
    const own = weightOf(this.#own, word);
    let rank = 0;
    for (const seed of this.#others) if (weightOf(seed, word) > own) rank += 1;
    return rank;
  }
}

function seedOf(id: string): number {
  return wordOf(sha256(Buffer.from(id)));
}

function wordOf(bytes: Uint8Array): number {
  return ((bytes[0] ?? 0) << 24) | ((bytes[1] ?? 0) << 16) | ((bytes[2] ?? 0) << 8) | (bytes[3] ?? 0);
}

/** Chunk ids come from signed metadata, so nobody can choose them to favour a machine: any hash that mixes well is enough. */
function weightOf(seed: number, word: number): number {
  let mixed = Math.imul(seed ^ word, 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  mixed = Math.imul(mixed ^ (mixed >>> 16) ^ seed, 0x27d4eb2f);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

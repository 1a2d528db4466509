/**
 * Sorts chunks into pools. Each chunk is in at most one pool. Moving a chunk and drawing a random one take constant time. Nine bytes per
 * chunk.
 */
export class ChunkPools {
  readonly #pools: number[][];
  /** For each chunk, its pool plus one, and its place in the pool. */
  readonly #poolOf: Uint8Array;
  readonly #placeOf: Uint32Array;

  constructor(chunks: number, pools: number) {
    this.#pools = Array.from({ length: pools }, () => []);
    this.#poolOf = new Uint8Array(chunks);
    this.#placeOf = new Uint32Array(chunks);
  }

  sizeOf(pool: number): number {
    return this.#pools[pool]?.length ?? 0;
  }

  has(at: number): boolean {
    return this.#poolOf[at] !== 0;
  }

  put(at: number, pool: number): void {
    this.remove(at);
    const members = this.#pools[pool];
    if (!members) throw new RangeError(`there is no pool ${pool}`);
    this.#poolOf[at] = pool + 1;
    this.#placeOf[at] = members.length;
    members.push(at);
  }

  /** No error if the chunk is in no pool. */
  remove(at: number): void {
    const pool = this.#poolOf[at] ?? 0;
    if (pool === 0) return;
    const members = this.#pools[pool - 1] ?? [];
    const last = members.pop();
    const place = this.#placeOf[at] ?? 0;
    if (last !== undefined && last !== at) {
      members[place] = last;
      this.#placeOf[last] = place;
    }
    this.#poolOf[at] = 0;
  }

  /** @param chance 0 ≤ chance < 1. @returns undefined from an empty pool */
  draw(pool: number, chance: number): number | undefined {
    const members = this.#pools[pool] ?? [];
    return members[Math.floor(chance * members.length)];
  }

  membersOf(pool: number): readonly number[] {
    return this.#pools[pool] ?? [];
  }
}

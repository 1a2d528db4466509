/** Memory that many requests share. */
export class MemoryBudget {
  readonly #maxBytes: number;
  #usedBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** @returns false where there isn't enough left; else `giveBack` is to be called once */
  take(lengthBytes: number): boolean {
    if (this.#usedBytes + lengthBytes > this.#maxBytes) return false;
    this.#usedBytes += lengthBytes;
    return true;
  }

  giveBack(lengthBytes: number): void {
    this.#usedBytes -= lengthBytes;
  }
}

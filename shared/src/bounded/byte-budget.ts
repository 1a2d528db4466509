/** How many bytes all who share the budget may hold at one time. Nobody waits: what doesn't fit is refused. */
export class ByteBudget {
  readonly maxBytes: number;
  #usedBytes = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** @returns whether so many bytes were left; then they are taken */
  tryTake(lengthBytes: number): boolean {
    if (this.#usedBytes + lengthBytes > this.maxBytes) return false;
    this.#usedBytes += lengthBytes;
    return true;
  }

  /** Counts bytes that are held already, whatever the limit says now. */
  takeAnyway(lengthBytes: number): void {
    this.#usedBytes += lengthBytes;
  }

  giveBack(lengthBytes: number): void {
    this.#usedBytes -= lengthBytes;
  }

  /** @returns gives the bytes back, once however often it is called; undefined where there aren't so many left */
  tryLease(lengthBytes: number): (() => void) | undefined {
    if (!this.tryTake(lengthBytes)) return undefined;
    let isHeld = true;
    return () => {
      if (isHeld) this.giveBack(lengthBytes);
      isHeld = false;
    };
  }
}

/** Bounds how many bytes all users of the budget hold at the same time. Callers don't wait: what doesn't fit is refused. */
export class ByteBudget {
  readonly maxBytes: number;
  #usedBytes = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Takes the bytes if they are free. @returns whether they were */
  tryTake(lengthBytes: number): boolean {
    if (this.#usedBytes + lengthBytes > this.maxBytes) return false;
    this.#usedBytes += lengthBytes;
    return true;
  }

  /** Counts bytes that are held already, even beyond the limit. */
  takeAnyway(lengthBytes: number): void {
    this.#usedBytes += lengthBytes;
  }

  giveBack(lengthBytes: number): void {
    this.#usedBytes -= lengthBytes;
  }

  /** @returns a function that returns the bytes (a second call does nothing); undefined where too few are free */
  tryLease(lengthBytes: number): (() => void) | undefined {
    if (!this.tryTake(lengthBytes)) return undefined;
    let isHeld = true;
    return () => {
      if (isHeld) this.giveBack(lengthBytes);
      isHeld = false;
    };
  }
}

interface Waiter {
  readonly lengthBytes: number;
  resolve(): void;
}

/** Bounds what is outstanding, in bytes and in number. Entries are admitted in order of arrival. */
export class ByteWindow {
  readonly #maxBytes: number;
  readonly #maxCount: number;
  readonly #waiters: Waiter[] = [];
  #usedBytes = 0;
  #count = 0;

  constructor(maxBytes: number, maxCount: number) {
    this.#maxBytes = maxBytes;
    this.#maxCount = maxCount;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Resolves once there is room; rejects with the signal's reason. An entry larger than the window has room when it is alone. */
  async take(lengthBytes: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#waiters.length === 0 && this.#hasRoom(lengthBytes)) {
      this.#add(lengthBytes);
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const giveUp = (): void => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        reject(signal?.reason);
        this.#wake();
      };
      const waiter: Waiter = {
        lengthBytes,
        resolve: () => {
          signal?.removeEventListener('abort', giveUp);
          resolve();
        },
      };
      signal?.addEventListener('abort', giveUp, { once: true });
      this.#waiters.push(waiter);
    });
  }

  /** Returns bytes to the window. */
  give(lengthBytes: number): void {
    this.#usedBytes -= lengthBytes;
    this.#count -= 1;
    this.#wake();
  }

  #hasRoom(lengthBytes: number): boolean {
    return (
      this.#count === 0 || (this.#count < this.#maxCount && this.#usedBytes + lengthBytes <= this.#maxBytes)
    );
  }

  #add(lengthBytes: number): void {
    this.#usedBytes += lengthBytes;
    this.#count += 1;
  }

  #wake(): void {
    for (let next = this.#waiters[0]; next && this.#hasRoom(next.lengthBytes); next = this.#waiters[0]) {
      this.#waiters.shift();
      this.#add(next.lengthBytes);
      next.resolve();
    }
  }
}

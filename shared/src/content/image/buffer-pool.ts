interface Waiter {
  readonly resolve: (buffer: ArrayBuffer) => void;
  readonly stopWaiting: () => void;
}

/**
 * A fixed number of equal pieces of memory. They are handed out, sent to worker threads and back, and handed out again. So they never
 * become garbage, which would be freed late; and a reader that is faster than the writers waits for a free piece.
 */
export class BufferPool {
  readonly lengthBytes: number;
  readonly #free: ArrayBuffer[] = [];
  readonly #waiting: Waiter[] = [];
  #unmade: number;

  constructor(count: number, lengthBytes: number) {
    this.#unmade = count;
    this.lengthBytes = lengthBytes;
  }

  /** The next free piece, with whatever its last user left in it. @throws the signal's reason */
  async acquire(signal: AbortSignal): Promise<ArrayBuffer> {
    signal.throwIfAborted();
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#unmade > 0) {
      this.#unmade -= 1;
      return new ArrayBuffer(this.lengthBytes);
    }
    return this.#wait(signal);
  }

  /** Gives a piece back: the very one, or what a worker thread sent back of it. */
  release(buffer: ArrayBuffer): void {
    const waiter = this.#waiting.shift();
    if (waiter === undefined) {
      this.#free.push(buffer);
      return;
    }
    waiter.stopWaiting();
    waiter.resolve(buffer);
  }

  #wait(signal: AbortSignal): Promise<ArrayBuffer> {
    return new Promise((resolve, reject) => {
      const giveUp = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        reject(signal.reason);
      };
      const waiter = { resolve, stopWaiting: () => signal.removeEventListener('abort', giveUp) };
      signal.addEventListener('abort', giveUp, { once: true });
      this.#waiting.push(waiter);
    });
  }
}

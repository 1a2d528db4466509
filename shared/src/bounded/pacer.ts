import { setTimeout as sleep } from 'node:timers/promises';

/** What may go out at once after a pause, in milliseconds of the allowed rate. */
const BURST_MS = 100;
const SECOND_MS = 1000;

/** Delays senders so that together they send so many bytes a second, in the order in which they ask. */
export class Pacer {
  readonly #bytesPerS: number;
  readonly #now: () => number;
  /** When all bytes so far will have gone out at the allowed rate. */
  #goneMs = Number.NEGATIVE_INFINITY;

  /** @param now milliseconds on a clock that never goes back */
  constructor(bytesPerS: number, now: () => number = () => performance.now()) {
    this.#bytesPerS = bytesPerS;
    this.#now = now;
  }

  /** Resolves when the bytes may go out; rejects with the signal's reason. */
  async take(lengthBytes: number, signal: AbortSignal): Promise<void> {
    const waitMs = this.delayOf(lengthBytes);
    if (waitMs > 0) await sleep(waitMs, undefined, { signal });
  }

  /** Counts the bytes as sent. @returns how long they have to wait before, in milliseconds */
  delayOf(lengthBytes: number): number {
    const nowMs = this.#now();
    const beginMs = Math.max(this.#goneMs, nowMs - BURST_MS);
    this.#goneMs = beginMs + (lengthBytes / this.#bytesPerS) * SECOND_MS;
    return Math.max(0, beginMs - nowMs);
  }
}

import { setTimeout as sleep } from 'node:timers/promises';

/** What may go out at once after a pause, in milliseconds of the allowed rate, unless something else is given. */
const BURST_MS = 100;
const SECOND_MS = 1000;

interface PacerOptions {
  burstMs?: number;
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
}

/** Keeps what many send together to a rate, in the order in which they ask. It counts bytes; its callers wait. */
export class Pacer {
  readonly #bytesPerS: () => number;
  readonly #burstMs: number;
  readonly #now: () => number;
  /** When all bytes so far will have been sent at the allowed rate. */
  #goneMs = Number.NEGATIVE_INFINITY;

  /** @param bytesPerS a rate, or what gives the rate for the bytes that are counted at that moment */
  constructor(
    bytesPerS: number | (() => number),
    { burstMs = BURST_MS, now = () => performance.now() }: PacerOptions = {},
  ) {
    this.#bytesPerS = typeof bytesPerS === 'number' ? () => bytesPerS : bytesPerS;
    this.#burstMs = burstMs;
    this.#now = now;
  }

  /** Milliseconds until all bytes so far will have gone out. */
  get leftMs(): number {
    return Math.max(0, this.#goneMs - this.#now());
  }

  /** Resolves when the bytes may be sent; rejects with the signal's reason. */
  async take(lengthBytes: number, signal: AbortSignal): Promise<void> {
    const waitMs = this.delayOf(lengthBytes);
    if (waitMs > 0) await sleep(waitMs, undefined, { signal });
  }

  /** Counts the bytes as sent. */
  count(lengthBytes: number): void {
    this.delayOf(lengthBytes);
  }

  /** Counts the bytes as sent. @returns how long they must wait first, in milliseconds */
  delayOf(lengthBytes: number): number {
    const nowMs = this.#now();
    const beginMs = Math.max(this.#goneMs, nowMs - this.#burstMs);
    this.#goneMs = beginMs + (lengthBytes / this.#bytesPerS()) * SECOND_MS;
    return Math.max(0, beginMs - nowMs);
  }
}

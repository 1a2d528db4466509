import { setTimeout as sleep } from 'node:timers/promises';
import { FairQueue } from './fair-queue.ts';

/** How much may be sent at once after a pause by default, in ms at the allowed rate. */
const BURST_MS = 100;
const SECOND_MS = 1000;
/** How many senders may wait. If there are more, the owner with the most loses its oldest. */
const MAX_WAITING = 4096;

interface PacerOptions {
  burstMs?: number;
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
}

/**
 * Keeps what many senders send together to a rate. It counts bytes, and callers wait. Owners take turns, each with its own requests in
 * order. Bytes count when their turn has come: a sender that leaves before that costs the others nothing.
 */
export class Pacer {
  readonly #bytesPerS: () => number;
  readonly #burstMs: number;
  readonly #now: () => number;
  readonly #turns = new FairQueue({ maxRunning: 1, maxWaiting: MAX_WAITING });
  /** When all bytes so far will have been sent at the allowed rate. */
  #goneMs = Number.NEGATIVE_INFINITY;

  /** @param bytesPerS the rate, or a function that returns the rate for the bytes that are counted now */
  constructor(
    bytesPerS: number | (() => number),
    { burstMs = BURST_MS, now = () => performance.now() }: PacerOptions = {},
  ) {
    this.#bytesPerS = typeof bytesPerS === 'number' ? () => bytesPerS : bytesPerS;
    this.#burstMs = burstMs;
    this.#now = now;
  }

  /** How long until all bytes so far will have been sent, in ms. */
  get leftMs(): number {
    return Math.max(0, this.#goneMs - this.#now());
  }

  /**
   * Resolves when the bytes may be sent; they should then be sent at once.
   * @param owner who receives them
   * @throws the signal's reason; SITECAST_BUSY where too many wait
   */
  take(lengthBytes: number, signal: AbortSignal, owner = ''): Promise<void> {
    const passed = async (): Promise<void> => {
      for (let waitMs = this.leftMs; waitMs > 0; waitMs = this.leftMs)
        await sleep(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted());
      this.count(lengthBytes);
    };
    return this.#turns.run(owner, passed, signal);
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

import { setTimeout as sleep } from 'node:timers/promises';

/** Waiting times that double from failure to failure, each shortened by chance by up to a half. */
export class Backoff {
  readonly #minMs: number;
  readonly #maxMs: number;
  #failures = 0;

  constructor(minMs: number, maxMs: number) {
    this.#minMs = minMs;
    this.#maxMs = maxMs;
  }

  reset(): void {
    this.#failures = 0;
  }

  /** How long to wait after one more failure, in milliseconds. */
  next(): number {
    const fullMs = Math.min(this.#maxMs, this.#minMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    return withJitter(fullMs);
  }
}

/** Between a half of a time and all of it, so that a thousand gateways don't come at one moment. */
export function withJitter(fullMs: number): number {
  return fullMs * (1 - Math.random() / 2);
}

/**
 * @param isKeepingAlive whether the process lives on for it: where there's nothing else yet that keeps it alive
 * @returns false if the signal came first
 */
export async function pause(
  lengthMs: number,
  signal: AbortSignal,
  { isKeepingAlive = false } = {},
): Promise<boolean> {
  try {
    await sleep(lengthMs, undefined, { signal, ref: isKeepingAlive });
    return true;
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  }
}

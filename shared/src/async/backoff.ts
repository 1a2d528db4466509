/** Waiting times that double from failure to failure. Each is shortened at random by up to a half. */
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

  /** How long to wait after a further failure, in milliseconds. */
  next(): number {
    const fullMs = Math.min(this.#maxMs, this.#minMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    return withJitter(fullMs);
  }
}

/** A random time between half of `fullMs` and all of it, so that a thousand machines don't come at one moment. */
export function withJitter(fullMs: number): number {
  return fullMs * (1 - Math.random() / 2);
}

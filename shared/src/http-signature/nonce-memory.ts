/** Remembers what was seen within a span of time, in two generations: bounded, and nothing is swept. */
export class NonceMemory {
  readonly #spanMs: number;
  readonly #maxNonces: number;
  #current = new Set<string>();
  #previous = new Set<string>();
  #turnedMs = 0;

  /** @param spanMs how long a nonce is remembered at least */
  constructor(spanMs: number, maxNonces = 500_000) {
    this.#spanMs = spanMs;
    this.#maxNonces = maxNonces;
  }

  /** False if it was seen already, or if more came within the span than can be remembered. */
  add(nonce: string, nowMs: number): boolean {
    if (Math.abs(nowMs - this.#turnedMs) >= this.#spanMs) {
      const isLongAgo = Math.abs(nowMs - this.#turnedMs) >= 2 * this.#spanMs;
      this.#previous = isLongAgo ? new Set() : this.#current;
      this.#current = new Set();
      this.#turnedMs = nowMs;
    }
    if (this.#current.has(nonce) || this.#previous.has(nonce)) return false;
    if (this.#current.size >= this.#maxNonces) return false;
    this.#current.add(nonce);
    return true;
  }
}

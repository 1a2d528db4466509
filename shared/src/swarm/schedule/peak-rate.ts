const WINDOW_MS = 500;

/** The highest rate of arriving bytes so far, over half seconds. */
export class PeakRate {
  #windowMs: number | undefined;
  #windowBytes = 0;
  #peakBytesPerMs = 0;

  took(lengthBytes: number, nowMs: number): void {
    this.#windowMs ??= nowMs;
    this.#windowBytes += lengthBytes;
    const passedMs = nowMs - this.#windowMs;
    if (passedMs < WINDOW_MS) return;
    this.#peakBytesPerMs = Math.max(this.#peakBytesPerMs, this.#windowBytes / passedMs);
    this.#windowMs = nowMs;
    this.#windowBytes = 0;
  }

  /** How long this many bytes take at that rate, in ms; infinite while it isn't known. */
  msFor(lengthBytes: number): number {
    return lengthBytes / this.#peakBytesPerMs;
  }
}

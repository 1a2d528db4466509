const ADMISSION_MS = 5_000;
/** How long an admission counts. A peer that was revoked meanwhile is served for at most this long. */
const READMIT_AFTER_MS = 30_000;

/**
 * Whether a peer may be served: it has a current assignment to this site, and isn't revoked.
 * @param credential the peer's proof, not verified yet: an assignment signed by the origin
 */
export type MayServe = (peer: string, credential: Uint8Array) => boolean | Promise<boolean>;

/** Whether one peer is served. The question is asked again from time to time; no answer within 5 seconds counts as a no. */
export class RenewedAdmission {
  readonly #ask: () => boolean | Promise<boolean>;
  readonly #now: () => number;
  #admittedMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<boolean> | undefined;

  /** @param now milliseconds on a clock that never goes back */
  constructor(ask: () => boolean | Promise<boolean>, now: () => number = () => performance.now()) {
    this.#ask = ask;
    this.#now = now;
  }

  /** Whether it was admitted so recently that it needn't be asked about again. */
  get isFresh(): boolean {
    return this.#now() - this.#admittedMs < READMIT_AFTER_MS;
  }

  async isAdmitted(): Promise<boolean> {
    if (this.isFresh) return true;
    this.#asking ??= this.#askNow().finally(() => {
      this.#asking = undefined;
    });
    return this.#asking;
  }

  async #askNow(): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<false>(resolve => {
      timer = setTimeout(() => resolve(false), ADMISSION_MS).unref();
    });
    try {
      const isAdmitted = await Promise.race([this.#ask(), timeout]);
      if (isAdmitted) this.#admittedMs = this.#now();
      return isAdmitted;
    } finally {
      clearTimeout(timer);
    }
  }
}

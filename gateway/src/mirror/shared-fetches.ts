/** How long a fetch goes on without a waiting caller: the next round may need the same file. */
const LINGER_MS = 60_000;

interface Fetch {
  readonly made: Promise<Uint8Array>;
  readonly stop: AbortController;
  waiting: number;
  timer: NodeJS.Timeout | undefined;
}

/** Fetches that several callers wait for: each is made once. If a round is interrupted, a partial download goes on. */
export class SharedFetches {
  readonly #underWay = new Map<string, Fetch>();
  readonly #lingerMs: number;

  constructor(lingerMs = LINGER_MS) {
    this.#lingerMs = lingerMs;
  }

  /**
   * @param make is called unless a fetch for this key is under way; its signal is aborted when no one has waited for a while
   * @param signal ends the wait
   * @throws what `make` throws; the signal's reason
   */
  async get(
    key: string,
    make: (stop: AbortSignal) => Promise<Uint8Array>,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    signal?.throwIfAborted();
    const fetch = this.#underWay.get(key) ?? this.#begin(key, make);
    clearTimeout(fetch.timer);
    fetch.waiting += 1;
    try {
      return signal ? await unlessAborted(fetch.made, signal) : await fetch.made;
    } finally {
      fetch.waiting -= 1;
      if (fetch.waiting === 0 && this.#underWay.get(key) === fetch) this.#endLater(key, fetch);
    }
  }

  #begin(key: string, make: (stop: AbortSignal) => Promise<Uint8Array>): Fetch {
    const stop = new AbortController();
    const made = make(stop.signal).finally(() => {
      clearTimeout(fetch.timer);
      if (this.#underWay.get(key) === fetch) this.#underWay.delete(key);
    });
    // Possibly no one waits when it fails.
    made.catch(() => undefined);
    const fetch: Fetch = { made, stop, waiting: 0, timer: undefined };
    this.#underWay.set(key, fetch);
    return fetch;
  }

  #endLater(key: string, fetch: Fetch): void {
    fetch.timer = setTimeout(() => {
      // A new caller starts a new fetch.
      this.#underWay.delete(key);
      fetch.stop.abort(new Error('nobody waits for it'));
    }, this.#lingerMs);
    fetch.timer.unref();
  }
}

async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const over = new AbortController();
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true, signal: over.signal });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    over.abort();
  }
}

import { LRUCache } from 'lru-cache';

/** Lines that are remembered: of more, the one that hasn't come for the longest may be told as if it were new. */
const MAX_REMEMBERED = 256;
/** A line that hasn't come again for so long is new when it comes. Longer than any pause between two attempts. */
const FORGOTTEN_AFTER_MS = 30 * 60_000;
/** After a line that was told: how long the same one is kept back, the first time, and from then on. */
const FIRST_QUIET_MS = 10 * 60_000;
const LATER_QUIET_MS = 60 * 60_000;

interface Remembered {
  /** When it was last told, milliseconds of a clock that nobody sets. */
  toldMs: number;
  timesTold: number;
  /** Since it was told. */
  keptBack: number;
}

/**
 * Keeps a log readable while something is away for a whole weekend: the same line comes a few times, then once after ten minutes, then
 * once an hour, and says how often it would have come.
 */
export class Repeats {
  readonly #now: () => number;
  readonly #lines: LRUCache<string, Remembered>;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    // Its own clock must not be 0.
    const perf = { now: () => now() + 1 };
    this.#lines = new LRUCache({ max: MAX_REMEMBERED, ttl: FORGOTTEN_AFTER_MS, ttlResolution: 0, perf });
  }

  /**
   * @param line what makes it the same
   * @param free how often it's told before it's kept back
   * @returns how often it was kept back since it was last told; undefined: it's kept back
   */
  tell(line: string, free: number): number | undefined {
    const nowMs = this.#now();
    const known = this.#lines.get(line) ?? { toldMs: nowMs, timesTold: 0, keptBack: 0 };
    const quietMs = known.timesTold > free ? LATER_QUIET_MS : FIRST_QUIET_MS;
    const isDue = known.timesTold < free || nowMs - known.toldMs >= quietMs;
    const next = isDue
      ? { toldMs: nowMs, timesTold: known.timesTold + 1, keptBack: 0 }
      : { ...known, keptBack: known.keptBack + 1 };
    this.#lines.set(line, next);
    return isDue ? known.keptBack : undefined;
  }
}

import { lruCache, type LruCache } from '../bounded/lru-cache.ts';

/** How many lines are remembered. Beyond it the one that hasn't come for the longest is forgotten, and may be logged as new. */
const MAX_REMEMBERED = 256;
/** A line that hasn't come for this long counts as new. It is longer than any pause between two attempts. */
const FORGOTTEN_AFTER_MS = 30 * 60_000;
/** How long repeats are held back after a line was logged: the first time, and each later time. */
const FIRST_QUIET_MS = 10 * 60_000;
const LATER_QUIET_MS = 60 * 60_000;

interface Remembered {
  /** When it was last logged, in milliseconds of a monotonic clock. */
  toldMs: number;
  timesTold: number;
  /** How many repeats were held back since it was last logged. */
  keptBack: number;
}

/**
 * Keeps a log readable while a server is unreachable for a long time. The same line is logged a few times, then once after ten minutes,
 * then once an hour, with the number of lines that were held back.
 */
export class Repeats {
  readonly #now: () => number;
  readonly #lines: LruCache<string, Remembered>;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#lines = lruCache({ max: MAX_REMEMBERED, ttl: FORGOTTEN_AFTER_MS, now });
  }

  /**
   * Counts a line and says whether it is to be logged.
   * @param line what identifies it
   * @param free how often it is logged before it is held back
   * @returns how many were held back since it was last logged; undefined if this one is held back
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

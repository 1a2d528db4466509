import { type KeyValueStore } from '@sitecast/shared/key-value';
import { lruCache } from '@sitecast/shared/bounded';
import type { Log } from '@sitecast/shared/log';
import { z } from 'zod';

/** After this many bytes the counts are saved, so a power cut loses no more. */
const UNSAVED_BYTES = 8 * 1024 * 1024;
/** How many owners are counted in a day. The least recently served are forgotten. */
const MAX_OWNERS = 1000;
const KEY = 'day';

const storedSchema = z.object({
  day: z.string(),
  totalBytes: z.number().nonnegative(),
  owners: z.array(z.tuple([z.string(), z.number().nonnegative()])).max(MAX_OWNERS),
});

interface DailyBudgetOptions {
  /** For one owner, in a day. */
  maxBytes: number;
  /** For all owners together, in a day. */
  maxTotalBytes: number;
  records: KeyValueStore;
  /** Milliseconds since 1970. */
  now: () => number;
  log: Pick<Log, 'warn'>;
}

/**
 * Bounds the bytes per day (UTC) for each of many owners and for all of them together, over restarts. However much others have taken, each
 * new owner gets something.
 */
export class DailyBudget {
  readonly #options: DailyBudgetOptions;
  readonly #owners = lruCache<string, number>({ max: MAX_OWNERS });
  #day: string;
  #totalBytes = 0;
  #unsavedBytes = 0;
  /** The last attempt to save failed. It is logged once. */
  #isFailing = false;

  private constructor(options: DailyBudgetOptions) {
    this.#options = options;
    this.#day = dayOf(options.now());
  }

  static async open(options: DailyBudgetOptions): Promise<DailyBudget> {
    const budget = new DailyBudget(options);
    const stored = storedSchema.safeParse(await options.records.get(KEY));
    if (stored.success && stored.data.day === budget.#day) {
      budget.#totalBytes = stored.data.totalBytes;
      for (const [owner, bytes] of stored.data.owners) budget.#owners.set(owner, bytes);
    }
    return budget;
  }

  /**
   * Takes bytes of today's budget.
   * @returns a function that returns the unused bytes, to be called once; undefined where fewer are left
   */
  take(owner: string, lengthBytes: number): ((usedBytes: number) => void) | undefined {
    this.#turn();
    const { maxBytes, maxTotalBytes } = this.#options;
    const used = this.#owners.get(owner) ?? 0;
    // An owner gets at most half of what the others have left, so something always remains for the next.
    const left = (maxTotalBytes - (this.#totalBytes - used)) / 2;
    if (used + lengthBytes > Math.min(maxBytes, left)) return undefined;
    this.#count(owner, lengthBytes);
    const day = this.#day;
    return usedBytes => {
      this.#turn();
      if (this.#day === day) this.#count(owner, usedBytes - lengthBytes);
    };
  }

  /** Saves the counts, if they have changed. Where that fails, on a full disk say, they hold for this process, and the next call tries again. */
  async save({ isDue = true }: { isDue?: boolean } = {}): Promise<void> {
    const unsavedBytes = this.#unsavedBytes;
    if (unsavedBytes < (isDue ? 1 : UNSAVED_BYTES)) return;
    this.#unsavedBytes = 0;
    const value = { day: this.#day, totalBytes: this.#totalBytes, owners: [...this.#owners.entries()] };
    try {
      await this.#options.records.commit([{ key: KEY, value }]);
      this.#isFailing = false;
    } catch (error) {
      this.#unsavedBytes += unsavedBytes;
      if (!this.#isFailing)
        this.#options.log.warn(
          { err: error },
          'what other sites were given today could not be saved; a restart forgets it',
        );
      this.#isFailing = true;
    }
  }

  #count(owner: string, lengthBytes: number): void {
    this.#owners.set(owner, Math.max(0, (this.#owners.get(owner) ?? 0) + lengthBytes));
    this.#totalBytes = Math.max(0, this.#totalBytes + lengthBytes);
    this.#unsavedBytes = Math.max(0, this.#unsavedBytes + lengthBytes);
  }

  /** Starts a new day with nothing used, also if the clock was set back. */
  #turn(): void {
    const day = dayOf(this.#options.now());
    if (day === this.#day) return;
    this.#day = day;
    this.#owners.clear();
    this.#totalBytes = 0;
  }
}

const dayOf = (atMs: number): string => new Date(atMs).toISOString().slice(0, 10);

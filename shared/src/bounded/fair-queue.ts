import { SitecastError } from '../errors.ts';
import { FairPool } from './fair-pool.ts';

export interface FairQueueOptions {
  /** Pieces of work that run at one time. */
  maxRunning: number;
  /** Pieces that wait. Where there are more, the owner with the most loses its oldest. */
  maxWaiting: number;
  /** Called before each piece begins. Where it returns false, it is called again shortly. By default there is no rate. */
  mayBegin?: () => boolean;
}

/** One piece of work. */
interface Waiting {
  begin: () => Promise<unknown>;
  release: () => void;
}

const ASK_AGAIN_MS = 25;

/**
 * Work of many owners, of which a few pieces run at a time. Owners take turns, each with its own pieces in order, however much the others
 * have waiting.
 */
export class FairQueue {
  readonly #options: FairQueueOptions;
  readonly #places: FairPool;
  /** The owner whose turn is next comes first. */
  readonly #owners = new Map<string, Set<Waiting>>();
  #running = 0;
  #isToAskAgain = false;

  constructor(options: FairQueueOptions) {
    this.#options = options;
    this.#places = new FairPool({ max: options.maxWaiting });
  }

  /** The number of waiting pieces. */
  get waiting(): number {
    return this.#places.used;
  }

  /** How many pieces were dropped for others. */
  get givenUp(): number {
    const { takenBack, refused } = this.#places.counts;
    return takenBack + refused;
  }

  /**
   * @param begin starts the work when its turn comes. The next piece follows when its promise has settled, fulfilled or rejected
   * @param giveUp is called instead, at most once, where there is no room for everything that this owner wants
   * @returns takes the piece out of the queue; does nothing once it has begun or was dropped
   */
  add(owner: string, begin: () => Promise<unknown>, giveUp: () => void): () => void {
    if (this.#isIdle()) {
      this.#start(begin);
      return () => {};
    }
    const own = this.#owners.get(owner) ?? new Set<Waiting>();
    const waiting: Waiting = { begin, release: () => lease?.release() };
    const lease = this.#places.lease(owner, 1, () => {
      this.#remove(owner, own, waiting);
      giveUp();
    });
    if (!lease) {
      giveUp();
      return () => {};
    }
    this.#owners.set(owner, own.add(waiting));
    this.#next();
    return () => {
      if (own.has(waiting)) this.#remove(owner, own, waiting);
      lease.release();
    };
  }

  /**
   * @param signal ends the wait; work that has begun isn't interrupted
   * @returns what the work gives, once its turn has come
   * @throws what the work throws; the signal's reason; SITECAST_BUSY (unreachable) where it was dropped
   */
  run<T>(owner: string, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) {
        reject(signal.reason);
        return;
      }
      let leave = (): void => {};
      const onAbort = (): void => {
        leave();
        reject(signal.reason);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      const begin = (): Promise<void> => {
        signal.removeEventListener('abort', onAbort);
        return work().then(resolve, reject);
      };
      leave = this.add(owner, begin, () => {
        signal.removeEventListener('abort', onAbort);
        reject(new SitecastError('unreachable', 'SITECAST_BUSY', 'too much waits here'));
      });
    });
  }

  /**
   * For work whose rate alone is bounded.
   * @returns true when its turn has come; false if it was dropped
   */
  turn(owner: string): Promise<boolean> {
    return new Promise(resolve => {
      this.add(
        owner,
        async () => resolve(true),
        () => resolve(false),
      );
    });
  }

  /** Nothing waits, and there is room. */
  #isIdle(): boolean {
    const { maxRunning, mayBegin } = this.#options;
    return this.#owners.size === 0 && this.#running < maxRunning && mayBegin === undefined;
  }

  #remove(owner: string, own: Set<Waiting>, waiting: Waiting): void {
    own.delete(waiting);
    if (own.size === 0 && this.#owners.get(owner) === own) this.#owners.delete(owner);
  }

  #next(): void {
    while (this.#running < this.#options.maxRunning) {
      const [first] = this.#owners;
      if (!first) return;
      if (this.#options.mayBegin?.() === false) {
        this.#askAgain();
        return;
      }
      this.#beginOf(first);
    }
  }

  #askAgain(): void {
    if (this.#isToAskAgain) return;
    this.#isToAskAgain = true;
    setTimeout(() => {
      this.#isToAskAgain = false;
      this.#next();
    }, ASK_AGAIN_MS).unref();
  }

  #beginOf([owner, own]: [string, Set<Waiting>]): void {
    const [waiting] = own;
    if (!waiting) return;
    this.#remove(owner, own, waiting);
    // The owner moves behind all others that have work.
    if (own.size > 0) {
      this.#owners.delete(owner);
      this.#owners.set(owner, own);
    }
    waiting.release();
    this.#start(waiting.begin);
  }

  #start(begin: () => Promise<unknown>): void {
    this.#running += 1;
    begin().then(this.#end, this.#end);
  }

  readonly #end = (): void => {
    this.#running -= 1;
    this.#next();
  };
}

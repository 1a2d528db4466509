import { FairPool } from './fair-pool.ts';

export interface FairQueueOptions {
  /** Pieces of work that are under way at one time. */
  maxRunning: number;
  /** Pieces that wait. Where there are more, the owner that has most of them loses its oldest. */
  maxWaiting: number;
  /** Asked before each piece begins: false, and it's asked again shortly. By default there's no rate. */
  mayBegin?: () => boolean;
}

/** One piece of work, as its owner sees it. */
interface Waiting {
  begin: () => Promise<unknown>;
  release: () => void;
}

const ASK_AGAIN_MS = 25;

/**
 * Work that many owners want done, a few pieces at a time: each owner's turn comes round, in the order of its own pieces, however
 * much the others have waiting.
 */
export class FairQueue {
  readonly #options: FairQueueOptions;
  readonly #places: FairPool;
  /** Those whose turn is next come first. */
  readonly #owners = new Map<string, Set<Waiting>>();
  #running = 0;
  #isToAskAgain = false;

  constructor(options: FairQueueOptions) {
    this.#options = options;
    this.#places = new FairPool({ max: options.maxWaiting });
  }

  /** Pieces that wait. */
  get waiting(): number {
    return this.#places.used;
  }

  /** Pieces that were given up for others, so far. */
  get givenUp(): number {
    const { takenBack, refused } = this.#places.counts;
    return takenBack + refused;
  }

  /**
   * @param begin starts the work when its turn comes; the next one follows when its promise has settled, however it did
   * @param giveUp is called instead, at most once, where there's no room for all that this owner wants
   */
  add(owner: string, begin: () => Promise<unknown>, giveUp: () => void): void {
    const own = this.#owners.get(owner) ?? new Set<Waiting>();
    const waiting: Waiting = { begin, release: () => lease?.release() };
    const lease = this.#places.lease(owner, 1, () => {
      this.#remove(owner, own, waiting);
      giveUp();
    });
    if (!lease) {
      giveUp();
      return;
    }
    this.#owners.set(owner, own.add(waiting));
    this.#next();
  }

  /**
   * For work that has a rate alone.
   * @returns when its turn has come; false if it was given up
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
    // Behind all others that have something to do.
    if (own.size > 0) {
      this.#owners.delete(owner);
      this.#owners.set(owner, own);
    }
    waiting.release();
    this.#running += 1;
    const end = (): void => {
      this.#running -= 1;
      this.#next();
    };
    waiting.begin().then(end, end);
  }
}

import type { FoundTarget } from '@sitecast/shared/trust';
import type { MirrorSet } from './mirror-set.ts';

/** Older sets whose files are still served, to devices in the middle of an update. */
const MAX_RETIRED_SETS = 3;
/** Devices that wait for a new timestamp at one time. */
const MAX_WAITERS = 2000;

/** The set that is served: verified, and swapped as a whole. */
export class Mirror {
  #current: MirrorSet | undefined;
  #isComplete = false;
  #retired: MirrorSet[] = [];
  readonly #roots = new Map<number, Uint8Array>();
  readonly #waiters = new Set<() => void>();
  readonly #maxWaiters: number;

  constructor(maxWaiters = MAX_WAITERS) {
    this.#maxWaiters = maxWaiters;
  }

  get current(): MirrorSet | undefined {
    return this.#current;
  }

  /** Whether every file that devices need is here; `readyz` says so. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  get waiters(): number {
    return this.#waiters.size;
  }

  /** Serves this set from now on, and answers the requests that wait for a change. */
  swap(set: MirrorSet, isComplete: boolean): void {
    const before = this.#current;
    this.#current = set;
    this.#isComplete = isComplete;
    if (before && before !== set) this.#retired = [before, ...this.#retired].slice(0, MAX_RETIRED_SETS);
    const isNews = before?.served.get('timestamp.json') !== set.served.get('timestamp.json');
    if (isNews) for (const wake of this.#waiters) wake();
  }

  addRoot(version: number, bytes: Uint8Array): void {
    this.#roots.set(version, bytes);
  }

  hasRoot(version: number): boolean {
    return this.#roots.has(version);
  }

  /** @param name such as `timestamp.json` or `4.snapshot.json` */
  metadata(name: string): Uint8Array | undefined {
    const root = /^([1-9]\d{0,15})\.root\.json$/.exec(name);
    if (root) return this.#roots.get(Number(root[1]));
    if (name === 'timestamp.json') return this.#current?.served.get(name);
    return firstOf(this.#sets(), set => set.served.get(name));
  }

  /** @param path below /targets/ */
  target(path: string): FoundTarget | undefined {
    return firstOf(this.#sets(), set => set.targets.get(path));
  }

  /**
   * Waits until another timestamp is served, for at most `maxMs`.
   * @returns at once where too many requests wait already
   */
  async waitForChange(maxMs: number, signal: AbortSignal): Promise<void> {
    if (this.#waiters.size >= this.#maxWaiters || signal.aborted) return;
    await new Promise<void>(resolve => {
      const wake = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', wake);
        this.#waiters.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, maxMs);
      signal.addEventListener('abort', wake);
      this.#waiters.add(wake);
    });
  }

  #sets(): MirrorSet[] {
    return this.#current ? [this.#current, ...this.#retired] : this.#retired;
  }
}

function firstOf<T>(sets: readonly MirrorSet[], find: (set: MirrorSet) => T | undefined): T | undefined {
  for (const set of sets) {
    const found = find(set);
    if (found !== undefined) return found;
  }
  return undefined;
}

import { HEARD_FOR_MS } from '@sitecast/shared/fleet';

interface HeardDevicesDeps {
  /** Whether an id is a device of this site, by its assignment, and not revoked. No other id is remembered. */
  isHere: (id: string) => boolean;
  /** A clock that never goes back nor jumps, milliseconds. */
  clockMs?: () => number;
}

/** Which devices of the site this gateway has heard lately, by what they signed or showed. Kept in memory alone. */
export class HeardDevices {
  readonly #isHere: (id: string) => boolean;
  readonly #clockMs: () => number;
  readonly #heardMs = new Map<string, number>();
  readonly #begunMs: number;
  readonly #listeners: (() => void)[] = [];

  constructor({ isHere, clockMs = () => performance.now() }: HeardDevicesDeps) {
    this.#isHere = isHere;
    this.#clockMs = clockMs;
    this.#begunMs = clockMs();
  }

  /** Calls when a device is heard that was not heard before, or not lately. */
  onCame(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Notes that something from this device was verified just now. */
  note(id: string): void {
    if (!this.#isHere(id)) return;
    const heardMs = this.#heardMs.get(id);
    const nowMs = this.#clockMs();
    this.#heardMs.set(id, nowMs);
    if (heardMs === undefined || nowMs - heardMs > HEARD_FOR_MS)
      for (const listener of this.#listeners) listener();
  }

  /** The devices that count as heard. */
  now(): Set<string> {
    const found = new Set<string>();
    for (const [id, heardMs] of this.#heardMs)
      if (this.#clockMs() - heardMs <= HEARD_FOR_MS && this.#isHere(id)) found.add(id);
    return found;
  }

  /** How long ago a device was last heard, milliseconds; HEARD_FOR_MS where that was forgotten. */
  ageMs(id: string): number {
    const heardMs = this.#heardMs.get(id);
    return heardMs === undefined ? HEARD_FOR_MS : this.#clockMs() - heardMs;
  }

  /** Forgets a device once the origin knows that it is gone. */
  forget(id: string): void {
    if (this.ageMs(id) > HEARD_FOR_MS || !this.#isHere(id)) this.#heardMs.delete(id);
  }

  /** Whether every live device has had the time to be heard since the start. */
  get isSettled(): boolean {
    return this.#clockMs() - this.#begunMs >= HEARD_FOR_MS;
  }
}

import type { DeltaName } from '@sitecast/shared/release';
import { deltaKey } from './listing.ts';

/** A published release that lacks chunks, damaged or lost. */
export interface DamagedRelease {
  product: string;
  counter: number;
  /** Undefined if the manifest is lost as well. */
  version: string | undefined;
  chunks: number;
}

/** A delta that operators have signed, and that lacks chunks of its patches. */
export interface DamagedDelta extends DeltaName {
  chunks: number;
}

/** How many items an answer names; it always gives their total. */
const MAX_NAMED = 100;

/** Known damage and losses of the published repository. */
export class DamageBook {
  readonly #releases = new Map<string, DamagedRelease>();
  readonly #deltas = new Map<string, DamagedDelta>();
  readonly #files = new Set<string>();
  /** Since this process began: chunks and files that were found damaged. */
  foundChunks = 0;
  foundFiles = 0;

  /** How many chunks releases and signed deltas lack. A chunk that two of them share counts twice. */
  get chunks(): number {
    const lacking = [...this.#releases.values(), ...this.#deltas.values()];
    return lacking.reduce((sum, { chunks }) => sum + chunks, 0);
  }

  get files(): number {
    return this.#files.size;
  }

  /** @param release `chunks` says how many it lacks; 0 if it is whole */
  noteRelease(release: DamagedRelease): void {
    const key = keyOf(release);
    if (release.chunks > 0) this.#releases.set(key, release);
    else this.#releases.delete(key);
  }

  /** @param delta `chunks` says how many it lacks; 0 if it is whole */
  noteDelta(delta: DamagedDelta): void {
    if (delta.chunks > 0) this.#deltas.set(deltaKey(delta), delta);
    else this.#deltas.delete(deltaKey(delta));
  }

  /** @param name as in `releases/camera-2.json`, or `3.root.json` */
  noteFile(name: string, isThere: boolean): void {
    if (isThere) this.#files.delete(name);
    else this.#files.add(name);
  }

  /** Forgets damage of items that aren't published any more. */
  keep(isListed: {
    release: (release: DamagedRelease) => boolean;
    delta: (delta: DamagedDelta) => boolean;
    file: (name: string) => boolean;
  }): void {
    for (const [key, release] of this.#releases) if (!isListed.release(release)) this.#releases.delete(key);
    for (const [key, delta] of this.#deltas) if (!isListed.delta(delta)) this.#deltas.delete(key);
    for (const name of this.#files) if (!isListed.file(name)) this.#files.delete(name);
  }

  namedReleases(): DamagedRelease[] {
    return [...this.#releases.values()].slice(0, MAX_NAMED);
  }

  namedDeltas(): DamagedDelta[] {
    return [...this.#deltas.values()].slice(0, MAX_NAMED);
  }

  namedFiles(): string[] {
    return [...this.#files].slice(0, MAX_NAMED);
  }

  hasRelease(release: { product: string; counter: number }): boolean {
    return this.#releases.has(keyOf(release));
  }

  hasDelta(delta: DeltaName): boolean {
    return this.#deltas.has(deltaKey(delta));
  }

  hasFile(name: string): boolean {
    return this.#files.has(name);
  }
}

function keyOf({ product, counter }: { product: string; counter: number }): string {
  return `${product}-${counter}`;
}

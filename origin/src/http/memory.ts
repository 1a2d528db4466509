import { SitecastError } from '@sitecast/shared/errors';

/** All request bodies that are in memory at one time, whoever sends them. */
export const MAX_BODY_MEMORY_BYTES = 64 * 1024 * 1024;
/** All file contents that wait in memory for slow readers; beyond it, files are streamed in small pieces. */
export const MAX_RESPONSE_MEMORY_BYTES = 64 * 1024 * 1024;

/** Memory that many requests share. */
export class MemoryBudget {
  readonly #maxBytes: number;
  #usedBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** @returns the function that gives the memory back; undefined where there isn't enough left */
  tryLease(lengthBytes: number): (() => void) | undefined {
    if (this.#usedBytes + lengthBytes > this.#maxBytes) return undefined;
    this.#usedBytes += lengthBytes;
    let isHeld = true;
    return () => {
      if (isHeld) this.#usedBytes -= lengthBytes;
      isHeld = false;
    };
  }

  /** @throws SITECAST_BUSY (unreachable) */
  lease(lengthBytes: number): () => void {
    const release = this.tryLease(lengthBytes);
    if (release) return release;
    throw new SitecastError(
      'unreachable',
      'SITECAST_BUSY',
      'the origin is receiving as much as it can hold',
      {
        hint: 'Try again in a moment.',
      },
    );
  }
}

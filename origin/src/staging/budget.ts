import { SitecastError } from '@sitecast/shared/errors';

/** How many bytes all staged files and chunks together may take. */
export class StagingBudget {
  readonly maxBytes: number;
  #usedBytes = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** @throws SITECAST_STAGING_FULL (noSpace) */
  take(lengthBytes: number): void {
    if (this.#usedBytes + lengthBytes > this.maxBytes) throw stagingFull(`${this.maxBytes} bytes`);
    this.#usedBytes += lengthBytes;
  }

  /** For what was found at start: it's there already, whatever the limit says now. */
  takeFound(lengthBytes: number): void {
    this.#usedBytes += lengthBytes;
  }

  giveBack(lengthBytes: number): void {
    this.#usedBytes -= lengthBytes;
  }
}

export function stagingFull(limit: string): SitecastError {
  return new SitecastError(
    'noSpace',
    'SITECAST_STAGING_FULL',
    `uploads that no release refers to yet have reached the limit of ${limit}`,
    { hint: 'Publish what was uploaded, or start the origin with a higher --max-staged-bytes.' },
  );
}

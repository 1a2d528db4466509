import { SitecastError } from '@sitecast/shared/errors';
import {
  DEFAULT_TRUST_LIMITS,
  type MetadataFetcher,
  metadataPath,
  parseMetadata,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import type { Mirror } from './mirror.ts';
import type { MirrorStore } from './mirror-store.ts';

/** Old roots that one round fetches. */
const MAX_ROOTS_PER_ROUND = 64;

interface RootHistoryDeps {
  mirror: Mirror;
  store: MirrorStore;
  /** Whether bytes are version 1, where a join token has named its hash. */
  isRightFirst: (bytes: Uint8Array) => boolean;
}

/**
 * The older roots, with which devices update from the root that they were installed with. From the trusted root downwards, each older root
 * is kept only if the next one is signed by its keys, too. (A forged one further down could only stop the device that asks for it, as the
 * device knows its first root, or its hash.)
 */
export class RootHistory {
  readonly #deps: RootHistoryDeps;

  constructor(deps: RootHistoryDeps) {
    this.#deps = deps;
  }

  /** Loads the stored roots below the trusted one. */
  async load(trusted: { version: number; bytes: Uint8Array }): Promise<void> {
    const stored = await this.#deps.store.loadRoots();
    await this.#fill(trusted, async version => stored.get(version), Number.MAX_SAFE_INTEGER);
  }

  /** Fetches missing roots. @returns whether the history reaches down to version 1 */
  async complete(
    trusted: { version: number; bytes: Uint8Array },
    fetcher: MetadataFetcher,
  ): Promise<boolean> {
    const { maxRootBytes } = DEFAULT_TRUST_LIMITS;
    return this.#fill(
      trusted,
      version => fetcher.fetch(metadataPath('root', version), { maxBytes: maxRootBytes }),
      MAX_ROOTS_PER_ROUND,
    );
  }

  async #fill(
    trusted: { version: number; bytes: Uint8Array },
    get: (version: number) => Promise<Uint8Array | undefined>,
    maxGets: number,
  ): Promise<boolean> {
    const { mirror, store } = this.#deps;
    if (!mirror.hasRoot(trusted.version)) {
      await store.saveRoot(trusted.version, trusted.bytes);
      mirror.addRoot(trusted.version, trusted.bytes);
    }
    let next = trusted.bytes;
    let gets = 0;
    for (let version = trusted.version - 1; version >= 1; version -= 1) {
      const known = mirror.metadata(metadataPath('root', version));
      if (!known) gets += 1;
      if (gets > maxGets) return false;
      const bytes = known ?? (await get(version));
      if (bytes === undefined || (!known && !this.#fits(version, bytes, next))) return false;
      if (!known) {
        await store.saveRoot(version, bytes);
        mirror.addRoot(version, bytes);
      }
      next = bytes;
    }
    return true;
  }

  #fits(version: number, bytes: Uint8Array, next: Uint8Array): boolean {
    try {
      const older = parseMetadata(bytes, 'root');
      const newer = parseMetadata(next, 'root');
      const at = { role: 'root', step: '5.3.4' };
      verifyThreshold(older, topLevelSigners(older.signed, 'root'), at);
      verifyThreshold(newer, topLevelSigners(older.signed, 'root'), at);
      return older.signed.version === version && (version !== 1 || this.#deps.isRightFirst(bytes));
    } catch (error) {
      // Not the root of that version: another upstream may have it.
      if (error instanceof SitecastError) return false;
      throw error;
    }
  }
}

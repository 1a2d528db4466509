import { SitecastError } from '@sitecast/shared/errors';
import { MAX_ASKED, NewestSources, type RepositorySource, withinTime } from '@sitecast/shared/upstream';
import type { Log } from '../ports.ts';

// Any machine on the LAN can answer here. The worst it does: it sends old or wrong files, or hangs. Its files are verified by the TUF
// client. Three machines are asked at once, of which at most one is known only from multicast DNS; one that fails isn't asked for five
// minutes, unless all fail.

/** How long a machine on the LAN may take for all metadata of one attempt, which is usually a few hundred KiB. */
const METADATA_WITHIN_MS = 30_000;

interface NearbySourcesOptions {
  /** Machines that may have files, in the order in which to ask them. */
  sources: () => readonly RepositorySource[];
  /** Version of the trusted timestamp. */
  timestampVersion: () => number;
  log: Log;
}

/** Other devices of the site as sources of the repository's files, for times without a gateway to follow. */
export class NearbySources {
  readonly #options: NearbySourcesOptions;
  readonly #newest = new NewestSources();
  /** The device that the trusted metadata came from, or that had the same. */
  #followed: RepositorySource | undefined;
  /** Whether the last refresh found no gateway to follow. */
  #isAlone = false;

  constructor(options: NearbySourcesOptions) {
    this.#options = options;
  }

  get isAlone(): boolean {
    return this.#isAlone;
  }

  /** Called when a gateway was followed. */
  noteGateway(): void {
    this.#isAlone = false;
    this.#followed = undefined;
  }

  /**
   * Tries those that claim the newest metadata, until one of them could be followed.
   * @param refresh verifies the source's metadata
   * @throws the signal's reason; errors of `refresh` other than SitecastError
   */
  async follow(refresh: (source: RepositorySource) => Promise<void>, signal: AbortSignal): Promise<void> {
    const { timestampVersion, log } = this.#options;
    const before = timestampVersion();
    this.#isAlone = true;
    for (const { source } of await this.#newest.ask(this.#options.sources(), signal)) {
      const followed = await this.#tried(source, refresh);
      signal.throwIfAborted();
      if (!followed) continue;
      this.#followed = source;
      const now = timestampVersion();
      if (now !== before)
        log('info', 'no gateway can be followed: newer metadata came from another device', {
          url: source.url,
          timestampVersion: now,
        });
      return;
    }
  }

  /**
   * Whether another device claims newer metadata; or any metadata, if none could be followed yet. The claim isn't verified.
   * @throws the signal's reason
   */
  async haveNews(signal: AbortSignal): Promise<boolean> {
    if (!this.#isAlone) return false;
    const [newest] = await this.#newest.ask(this.#options.sources(), signal);
    return (
      newest !== undefined && newest.version >= this.#options.timestampVersion() + (this.#followed ? 1 : 0)
    );
  }

  /**
   * Asks the device that was followed, then others.
   * @param work throws for an answer that isn't usable
   * @returns undefined where none of them has the wanted file
   * @throws errors of `work` other than SitecastError
   */
  async each<T>(work: (source: RepositorySource) => Promise<T>): Promise<{ found: T } | undefined> {
    const first = this.#followed;
    const others = this.#newest
      .usable(this.#options.sources().filter(({ url }) => url !== first?.url))
      .slice(0, MAX_ASKED);
    for (const source of first ? [first, ...others] : others) {
      const answer = await this.#tried(source, work);
      if (answer) return answer;
    }
    return undefined;
  }

  /** @returns undefined where the answer wasn't usable */
  async #tried<T>(
    source: RepositorySource,
    work: (source: RepositorySource) => Promise<T>,
  ): Promise<{ found: T } | undefined> {
    try {
      return { found: await work(withinTime(source, METADATA_WITHIN_MS)) };
    } catch (error) {
      if (!(error instanceof SitecastError) || error.kind === 'noSpace') throw error;
      const { code, message } = error;
      this.#options.log('info', `another device gave nothing of use: ${message}`, { code, url: source.url });
      // One that only lacks a file is asked again.
      if (error.kind === 'notFound') return undefined;
      this.#newest.failed(source, error);
      if (source.url === this.#followed?.url) this.#followed = undefined;
      return undefined;
    }
  }
}

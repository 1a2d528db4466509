import { SitecastError } from '@sitecast/shared/errors';
import { MAX_ASKED, NewestSources, type RepositorySource, withinTime } from '@sitecast/shared/upstream';
import type { Log } from '../ports.ts';

// Any machine on the LAN can answer here. The worst it does: it gives old or false files, or hangs. What it gives goes through the TUF client.
// Three are asked at once, of which at most one is a machine that only multicast DNS has named; one that fails rests for five minutes, unless all do.

/** The time that a machine of the LAN has for all metadata of one attempt; most of it is a few hundred KiB. */
const METADATA_WITHIN_MS = 30_000;

interface NearbySourcesOptions {
  /** Machines that may give files, in the order in which they are to be asked. */
  sources: () => readonly RepositorySource[];
  /** Of the timestamp that is trusted. */
  timestampVersion: () => number;
  log: Log;
}

/** The other devices of the site as sources of the repository's files, for times when no gateway can be followed. */
export class NearbySources {
  readonly #options: NearbySourcesOptions;
  readonly #newest = new NewestSources();
  /** The one that the trusted metadata came from, or that had the same. */
  #followed: RepositorySource | undefined;
  /** Whether the last refresh found no gateway. */
  #isAlone = false;

  constructor(options: NearbySourcesOptions) {
    this.#options = options;
  }

  get isAlone(): boolean {
    return this.#isAlone;
  }

  /** A gateway was followed. */
  noteGateway(): void {
    this.#isAlone = false;
    this.#followed = undefined;
  }

  /**
   * Follows those that claim the newest metadata, until one of them could be followed.
   * @param refresh verifies what the source gives
   * @throws the signal's reason; what `refresh` throws beside SitecastError
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
   * Whether a neighbour claims newer metadata; or any, where none could be followed yet. The claim isn't verified.
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
   * Asks the one that was followed, then others.
   * @param work throws for an answer that is of no use
   * @returns undefined where none of them has what is wanted
   * @throws what `work` throws beside SitecastError
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

  /** @returns undefined where it was of no use */
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
      // One that merely lacks a file is asked again.
      if (error.kind === 'notFound') return undefined;
      this.#newest.failed(source, error);
      if (source.url === this.#followed?.url) this.#followed = undefined;
      return undefined;
    }
  }
}

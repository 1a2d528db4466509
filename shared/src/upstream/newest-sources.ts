import { lruCache } from '../bounded/index.ts';
import { SitecastError } from '../errors.ts';
import type { MetadataFetcher } from '../trust/index.ts';

// Neighbours answer here: members of the fleet's network, or machines on the LAN. The worst one gives old or false files, or hangs. Nothing that
// it gives is trusted: the TUF client decides. It costs one failed attempt, and rests for a while.

/** One place that the repository's files come from. */
export interface RepositorySource {
  readonly url: string;
  /** Below /metadata/. */
  readonly metadata: MetadataFetcher;
  /** Below /targets/. */
  readonly targets: MetadataFetcher;
}

/** Neighbours that are asked at one time for the newest timestamp. */
export const MAX_ASKED = 3;
/** How long a neighbour isn't asked that gave nothing, or something wrong. */
const REST_MS = 5 * 60_000;
/** One that lacks a file may have it a second later. */
const LACKS_REST_MS = 5000;
const MAX_RESTING = 1000;
const MAX_TIMESTAMP_BYTES = 16 * 1024;
/** The time that those that are asked together have to say which timestamp they have. */
const NEWEST_WITHIN_MS = 5000;
export const TIMESTAMP = 'timestamp.json';

/** A source that has answered, and the version that its timestamp claims: nothing is verified. */
export interface Claim {
  source: RepositorySource;
  version: number;
}

/** Finds out which neighbours claim the newest metadata, and remembers which of them were of no use lately. */
export class NewestSources {
  readonly #resting = lruCache<string, true>({ max: MAX_RESTING, ttl: REST_MS });

  isResting({ url }: Pick<RepositorySource, 'url'>): boolean {
    return this.#resting.has(url);
  }

  /** Those that don't rest. Where all do, all of them: a site may have one neighbour only, and a rest is to cost it time, not the site its news. */
  usable<S extends Pick<RepositorySource, 'url'>>(sources: readonly S[]): readonly S[] {
    const awake = sources.filter(source => !this.isResting(source));
    return awake.length === 0 ? sources : awake;
  }

  /** Notes why a source gave nothing: one that is out of reach, or gives what is wrong, rests. One that is merely behind doesn't. */
  failed({ url }: Pick<RepositorySource, 'url'>, error: SitecastError): void {
    if (isBehind(error) || error.kind === 'noSpace') return;
    const ttl = error.code === 'SITECAST_TARGET_UNAVAILABLE' ? LACKS_REST_MS : REST_MS;
    this.#resting.set(url, true, { ttl });
  }

  /**
   * Asks for timestamps, of three sources at once.
   * @param sources the first of those that are usable are asked. The caller draws the order: three that were frozen must not be the ones that are always asked
   * @returns those that answered, with the timestamp that each gave, the newest first: so one that is behind, or was frozen, holds up nothing
   * @throws the signal's reason
   */
  async ask(sources: readonly RepositorySource[], signal: AbortSignal): Promise<Claim[]> {
    const stop = AbortSignal.any([signal, AbortSignal.timeout(NEWEST_WITHIN_MS)]);
    const asked = this.usable(sources)
      .slice(0, MAX_ASKED)
      .map(source => this.#claimOf(source, { stop, signal }));
    const claims = (await Promise.all(asked)).filter(claim => claim !== undefined);
    signal.throwIfAborted();
    return claims.sort((one, other) => other.version - one.version);
  }

  async #claimOf(
    source: RepositorySource,
    { stop, signal }: { stop: AbortSignal; signal: AbortSignal },
  ): Promise<Claim | undefined> {
    try {
      const bytes = await source.metadata.fetch(TIMESTAMP, { maxBytes: MAX_TIMESTAMP_BYTES, signal: stop });
      return (
        bytes && {
          source: withFiles(source, new Map([[TIMESTAMP, bytes]])),
          version: claimedVersion(bytes),
        }
      );
    } catch (error) {
      if (error instanceof SitecastError) this.failed(source, error);
      else if (!stop.aborted) throw error;
      else if (!signal.aborted) this.#resting.set(source.url, true);
      return undefined;
    }
  }
}

/**
 * Whether a source gave what was right once: an older timestamp, or one that has expired. Both are signed. An old root in the place of the
 * next one is no such thing: nobody who is behind has a file of that name.
 */
export function isBehind({ code, data }: SitecastError): boolean {
  if (code === 'SITECAST_METADATA_ROLLBACK') return data?.role === 'timestamp';
  return code === 'SITECAST_METADATA_EXPIRED';
}

/**
 * A source whose metadata must come within a time, all of it together, from now on: each file alone may take minutes.
 * Its fetches throw SITECAST_UPSTREAM_UNREACHABLE (unreachable) once the time is over.
 */
export function withinTime<S extends RepositorySource>(source: S, limitMs: number): S {
  const timeout = AbortSignal.timeout(limitMs);
  const why = `${source.url}: its metadata did not come within ${limitMs} ms`;
  return {
    ...source,
    metadata: { fetch: (path, options) => fetchUntil(timeout, source.metadata, { path, options, why }) },
  };
}

/**
 * A source each of whose target files must come within a time, from when it is asked for.
 * @param limitMsOf by the length of a file. Fetches throw as those of `withinTime`
 */
export function withFilesInTime<S extends RepositorySource>(
  source: S,
  limitMsOf: (lengthBytes: number) => number,
): S {
  const fetch: MetadataFetcher['fetch'] = (path, options) => {
    const limitMs = limitMsOf(options.maxBytes);
    const why = `${source.url}: a file did not come within ${limitMs} ms`;
    return fetchUntil(AbortSignal.timeout(limitMs), source.targets, { path, options, why });
  };
  return { ...source, targets: { fetch } };
}

async function fetchUntil(
  timeout: AbortSignal,
  from: MetadataFetcher,
  {
    path,
    options: { signal, ...options },
    why,
  }: { path: string; options: Parameters<MetadataFetcher['fetch']>[1]; why: string },
): Promise<Uint8Array | undefined> {
  try {
    timeout.throwIfAborted();
    const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
    return await from.fetch(path, { ...options, signal: either });
  } catch (error) {
    if (!timeout.aborted || signal?.aborted) throw error;
    throw new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', why, { cause: error });
  }
}

/** In an order drawn by chance. */
export function shuffled<T>(list: readonly T[]): T[] {
  const keyed = list.map(item => ({ item, key: Math.random() }));
  return keyed.sort((one, other) => one.key - other.key).map(({ item }) => item);
}

/** A source that has some metadata already. */
export function withFiles(
  source: RepositorySource,
  files: ReadonlyMap<string, Uint8Array>,
): RepositorySource {
  return {
    ...source,
    metadata: {
      fetch: async (path, options) => files.get(path) ?? (await source.metadata.fetch(path, options)),
    },
  };
}

/** The version that a timestamp claims, which isn't verified here; 0 where it can't be read. */
export function claimedVersion(timestamp: Uint8Array): number {
  try {
    const { signed } = JSON.parse(Buffer.from(timestamp).toString('utf8'));
    return Number.isSafeInteger(signed.version) ? signed.version : 0;
  } catch {
    return 0;
  }
}

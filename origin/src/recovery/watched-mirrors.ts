import { SitecastError } from '@sitecast/shared/errors';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import { isDamage } from '../repository/rebuild.ts';
import type { Mirror } from './mirror-copy.ts';

/** A mirror that could not be read, and why. */
export interface UnreadMirror {
  mirror: string;
  code: string;
  message: string;
}

/** How long a mirror may waste a recovery's time in all, before it gets less time for each chunk, and before it is given up. */
const PATIENCE_MS = 20_000;
export const LAST_PATIENCE_MS = 60_000;
/** The time for each chunk then. A gateway answers at once with a chunk that it holds: a chunk that takes longer is one that it lacks. */
const SHORT_WAIT_MS = 2_000;

interface WatchOptions {
  /** Milliseconds on a clock that never goes back. */
  now?: () => number;
}

/**
 * Wraps mirrors and notes which of them could not be asked: only a mirror that has answered counts as lacking something. A mirror that
 * takes requests and never answers delays a recovery by at most `LAST_PATIENCE_MS` in all.
 */
export function watchMirrors(
  mirrors: readonly Mirror[],
  { now = () => performance.now() }: WatchOptions = {},
): {
  mirrors: Mirror[];
  unread: () => UnreadMirror[];
} {
  const unread = new Map<string, UnreadMirror>();
  const note = (name: string, { code, message }: SitecastError): void => {
    // The first error is kept: those that follow say no more.
    if (!unread.has(name)) unread.set(name, { mirror: name, code, message });
  };
  return {
    mirrors: mirrors.map(({ name, metadata, targets, chunks }) => {
      const patience = new Patience(name, { now, note: error => note(name, error) });
      const fetching = (fetcher: MetadataFetcher): MetadataFetcher => ({
        fetch: (path, options) => patience.ask(() => fetcher.fetch(path, options), options.signal),
      });
      return {
        name,
        metadata: fetching(metadata),
        targets: fetching(targets),
        chunks: {
          name: chunks.name,
          has: (id, request) =>
            patience.askSoon(signal => chunks.has(id, { ...request, signal }), request?.signal),
          get: (id, request) =>
            patience.askSoon(signal => chunks.get(id, { ...request, signal }), request?.signal),
        },
      };
    }),
    unread: () => [...unread.values()],
  };
}

interface PatienceDeps {
  now: () => number;
  note: (error: SitecastError) => void;
}

/** How much waiting is left for one mirror. Waits at the same time count once. */
class Patience {
  readonly #name: string;
  readonly #deps: PatienceDeps;
  #wastedMs = 0;
  #countedToMs = Number.NEGATIVE_INFINITY;

  constructor(name: string, deps: PatienceDeps) {
    this.#name = name;
    this.#deps = deps;
  }

  /** @throws what `act` throws; SITECAST_UPSTREAM_UNREACHABLE of one that was given up */
  async ask<T>(act: () => Promise<T>, given: AbortSignal | undefined): Promise<T> {
    const { now, note } = this.#deps;
    if (this.#wastedMs >= LAST_PATIENCE_MS) throw this.#silent();
    const startedMs = now();
    try {
      return await act();
    } catch (error) {
      given?.throwIfAborted();
      if (error instanceof SitecastError && error.kind === 'unreachable') {
        note(error);
        const endMs = now();
        this.#wastedMs += Math.max(0, endMs - Math.max(startedMs, this.#countedToMs));
        this.#countedToMs = endMs;
      }
      throw error;
    }
  }

  /** The same for a chunk, which is small. A mirror that still gives some chunks isn't given up. */
  async askSoon<T>(
    act: (signal: AbortSignal) => Promise<T>,
    given = new AbortController().signal,
  ): Promise<T> {
    const short = this.#wastedMs >= PATIENCE_MS ? AbortSignal.timeout(SHORT_WAIT_MS) : undefined;
    const asking = async (): Promise<T> => {
      try {
        return await act(short ? AbortSignal.any([short, given]) : given);
      } catch (error) {
        throw short?.aborted === true ? this.#silent(error) : error;
      }
    };
    const answer = await this.ask(asking, given);
    this.#wastedMs = Math.min(this.#wastedMs, PATIENCE_MS);
    return answer;
  }

  #silent(cause?: unknown): SitecastError {
    return new SitecastError(
      'unreachable',
      'SITECAST_UPSTREAM_UNREACHABLE',
      `${this.#name} takes requests and does not answer them`,
      { cause },
    );
  }
}

/** In words, for an error's message. */
export function unreadText(unread: readonly UnreadMirror[]): string {
  return unread.map(({ mirror, message }) => `${mirror}: ${message}`).join('; ');
}

/** A mirror that could not be asked may have what keeps the repository from being opened. */
export function stillDamagedFor(error: unknown, unread: readonly UnreadMirror[]): unknown {
  if (!isDamage(error) || !(error instanceof SitecastError) || unread.length === 0) return error;
  return new SitecastError(
    'unreachable',
    'SITECAST_MIRRORS_UNREAD',
    `${error.message}; and gateways could not be asked for it: ${unreadText(unread)}`,
    { hint: 'Run this again once they answer, or name others with --from.', cause: error, data: { unread } },
  );
}

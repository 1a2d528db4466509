import { SitecastError } from '@sitecast/shared/errors';
import { Backoff, sleep, withJitter } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import type { Upstream } from '../upstream/upstream.ts';
import type { Synchroniser } from './synchroniser.ts';

/** The wait that a long poll asks for, in seconds. */
const WAIT_S = 55;
/** An upstream that answers "nothing new" sooner does not support long polls. */
const LEAST_WAIT_MS = 5000;
const MIN_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 60_000;
/** Rounds without a new set that follow each other faster than this are slowed down: an upstream may always claim a change. */
const HASTE_MS = 1000;
/** The second round follows the first at once, to get an ETag. */
const FREE_ROUNDS = 2;
const MAX_HASTE_PAUSE_MS = 30_000;
/** How often an upstream without long polls is asked, and how often the first is tried again while another is followed. */
const POLL_MS = 30_000;

/** The hint of errors that have none. */
const UNREACHED_HINT =
  'Devices get what is here, and their reports wait. Look at the line to the origin, and whether it runs.';

interface FollowerDeps {
  synchroniser: Pick<Synchroniser, 'round'>;
  upstreams: readonly Pick<Upstream, 'url' | 'waitForChange'>[];
  now: () => number;
  log: Log;
  pollMs?: number;
}

/**
 * Keeps the mirror up to date for as long as it runs: a long poll on the timestamp, and a round whenever that changes. While it follows
 * another upstream than the first, each round tries the first again.
 */
export class Follower {
  readonly #deps: FollowerDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  readonly #haste = new Backoff(2 * MIN_BACKOFF_MS, MAX_HASTE_PAUSE_MS);
  readonly #etags = new Map<string, string | undefined>();
  #rounds = 0;
  /** Failed rounds in a row. */
  #failures = 0;
  #hasNews = false;
  #interrupt: AbortController | undefined;
  /** When a round last ended well, milliseconds since 1970; undefined before the first. */
  lastContactMs: number | undefined;

  constructor(deps: FollowerDeps) {
    this.#deps = deps;
  }

  /** Ends the wait: another gateway has announced something newer. */
  wake(): void {
    this.#hasNews = true;
    this.#interrupt?.abort(new Error('there is news'));
  }

  /** Returns when the signal comes. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#hasNews = false;
      try {
        const { at, isNew } = await this.#deps.synchroniser.round(signal);
        this.#backoff.reset();
        this.#noteContact();
        this.#rounds += 1;
        this.lastContactMs = this.#deps.now();
        const beginMs = performance.now();
        await this.#unlessNews(signal, either => this.#untilChange(at, either));
        if (isNew || performance.now() - beginMs >= HASTE_MS) this.#haste.reset();
        else if (this.#rounds > FREE_ROUNDS) await sleep(this.#haste.next(), signal);
      } catch (error) {
        if (signal.aborted) return;
        await this.#afterFailure(error, signal);
      }
    }
  }

  #noteContact(): void {
    if (this.#failures > 0)
      this.#deps.log.info({ failures: this.#failures }, 'an upstream is followed again');
    this.#failures = 0;
  }

  async #afterFailure(error: unknown, signal: AbortSignal): Promise<void> {
    const waitMs = this.#backoff.next();
    const { log } = this.#deps;
    const fields = { waitMs: Math.round(waitMs) };
    this.#failures += 1;
    if (error instanceof SitecastError) {
      const { code, message: detail, hint = UNREACHED_HINT } = error;
      log.warn({ ...fields, code, detail, hint }, 'no upstream could be followed');
    } else log.error({ ...fields, err: error }, 'following the upstreams failed');
    await this.#unlessNews(signal, either => sleep(waitMs, either));
  }

  /** Waits for something, at most until `wake` is called. */
  async #unlessNews(signal: AbortSignal, wait: (either: AbortSignal) => Promise<unknown>): Promise<void> {
    if (this.#hasNews || signal.aborted) return;
    const interrupt = new AbortController();
    const stop = (): void => interrupt.abort(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    this.#interrupt = interrupt;
    try {
      await wait(interrupt.signal);
    } catch (error) {
      if (!this.#hasNews || signal.aborted) throw error;
    } finally {
      this.#interrupt = undefined;
      signal.removeEventListener('abort', stop);
    }
  }

  async #untilChange(at: number, signal: AbortSignal): Promise<void> {
    const { upstreams, now, pollMs = POLL_MS } = this.#deps;
    const upstream = upstreams[at];
    if (!upstream) return;
    const waitS = at === 0 ? WAIT_S : Math.min(WAIT_S, Math.ceil(pollMs / 1000));
    for (;;) {
      const beginMs = now();
      const before = this.#etags.get(upstream.url);
      const { etag, isChanged } = await upstream.waitForChange(before, { waitS, signal });
      this.#etags.set(upstream.url, etag);
      // Without an ETag from before, the timestamp may have changed since the last round.
      if (isChanged && etag !== undefined) return;
      this.lastContactMs = now();
      const doesWait = etag !== undefined && now() - beginMs >= LEAST_WAIT_MS;
      if (!doesWait && !(await sleep(withJitter(pollMs), signal))) return;
      if (etag === undefined || at > 0) return;
    }
  }
}

import { SitecastError } from '@sitecast/shared/errors';
import { Backoff, sleep, withJitter } from '@sitecast/shared/async';
import type { Log } from '@sitecast/shared/log';
import type { Upstream } from '../upstream/upstream.ts';
import type { News } from './sources.ts';
import type { Synchroniser } from './synchroniser.ts';

/** The wait that a long poll asks for, in seconds. */
const WAIT_S = 55;
/** An upstream that answers "nothing new" sooner does not support long polls. */
const LEAST_WAIT_MS = 5000;
const MIN_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 60_000;
/** If rounds without a new set follow each other faster than this, they are slowed down: an upstream could always claim a change. */
const HASTE_MS = 1000;
/** The second round follows the first at once, to get an ETag. */
const FREE_ROUNDS = 2;
const MAX_HASTE_PAUSE_MS = 30_000;
/** How often an upstream without long polls is asked, and how often the first is tried again while another is followed. */
const POLL_MS = 30_000;
/** How often a claim that there is a newer root leads to a round. */
const CLAIM_EVERY_MS = 60_000;

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
  /** The newest announcement since the last round began. */
  #news: News | undefined;
  /** The upstream that is followed; undefined while none answers. */
  #upstream: Pick<Upstream, 'url' | 'waitForChange'> | undefined;
  /** When the last claim of a newer root was followed. */
  #claimedMs = Number.NEGATIVE_INFINITY;
  #interrupt: AbortController | undefined;
  /** The round that is under way, and the version that it was begun for. */
  #underWay: { readonly version: number; readonly newer: AbortController } | undefined;
  /** Whether the last round has shown that no upstream can be followed. Neighbours may be followed meanwhile. */
  isCutOff = false;
  /** When the last round succeeded, in ms since 1970; undefined before the first. */
  lastContactMs: number | undefined;

  constructor(deps: FollowerDeps) {
    this.#deps = deps;
  }

  /**
   * Called when another gateway has announced something newer. It ends the wait, attempts at upstreams that have not answered lately, and a
   * round that waits for target files of an older version.
   */
  wake(news: News): void {
    if (!isNewer(news, this.#news)) return;
    if (news.version === undefined) {
      // A claim isn't proved: any member can send it, as often as it wants.
      if (this.#deps.now() - this.#claimedMs < CLAIM_EVERY_MS) return;
      this.#claimedMs = this.#deps.now();
    }
    this.#news = news;
    this.#interrupt?.abort(new Error('there is news'));
    const underWay = this.#underWay;
    // Only versions with valid signatures count, so there are as many interruptions as publications.
    if (underWay && (news.version ?? 0) > underWay.version) underWay.newer.abort(new Error('there is news'));
  }

  /** Returns when the signal comes. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const news = this.#news;
      this.#news = undefined;
      try {
        const isNew = await this.#round(news, signal);
        this.#backoff.reset();
        this.#noteContact();
        this.#rounds += 1;
        this.lastContactMs = this.#deps.now();
        const beginMs = performance.now();
        await this.#unlessNews(signal, either => this.#untilChange(either));
        if (isNew || performance.now() - beginMs >= HASTE_MS) this.#haste.reset();
        else if (this.#rounds > FREE_ROUNDS) await sleep(this.#haste.next(), signal);
      } catch (error) {
        if (signal.aborted) return;
        if (this.#news === undefined) await this.#afterFailure(error, signal);
      }
    }
  }

  async #round(news: News | undefined, signal: AbortSignal): Promise<boolean> {
    const { synchroniser, upstreams } = this.#deps;
    const isUpstreamSilent = this.#upstream === undefined;
    const round = async (either: AbortSignal): Promise<boolean> => {
      const newer = new AbortController();
      this.#underWay = { version: news?.version ?? 0, newer };
      const asking = synchroniser.round(either, news, newer.signal).finally(() => {
        this.#underWay = undefined;
      });
      const { source, isNew } = await this.#noting(asking, either);
      const followed = upstreams.find(({ url }) => url === source.url);
      if (followed !== undefined || news === undefined) {
        this.#upstream = followed;
        this.isCutOff = followed === undefined;
      }
      return isNew;
    };
    if (news !== undefined || !isUpstreamSilent) return await round(signal);
    return await this.#interruptible(signal, round);
  }

  async #noting<T>(round: Promise<T>, signal: AbortSignal): Promise<T> {
    try {
      return await round;
    } catch (error) {
      const isOthers = error instanceof SitecastError && ['unreachable', 'untrusted'].includes(error.kind);
      if (isOthers && !signal.aborted) this.isCutOff = true;
      throw error;
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
    this.#upstream = undefined;
    if (error instanceof SitecastError) {
      const { code, message: detail, hint = UNREACHED_HINT } = error;
      const isFull = error.kind === 'noSpace';
      const what = isFull
        ? 'the disk is full: nothing new is mirrored before there is room'
        : 'no upstream could be followed';
      log[isFull ? 'error' : 'warn']({ ...fields, code, detail, hint }, what);
    } else log.error({ ...fields, err: error }, 'following the upstreams failed');
    await this.#unlessNews(signal, either => sleep(waitMs, either));
  }

  /** Waits for something, at most until `wake` is called. */
  async #unlessNews(signal: AbortSignal, wait: (either: AbortSignal) => Promise<unknown>): Promise<void> {
    if (this.#news !== undefined || signal.aborted) return;
    try {
      await this.#interruptible(signal, wait);
    } catch (error) {
      if (this.#news === undefined || signal.aborted) throw error;
    }
  }

  /** @param act gets a signal that is also aborted by `wake` */
  async #interruptible<T>(signal: AbortSignal, act: (either: AbortSignal) => Promise<T>): Promise<T> {
    const interrupt = new AbortController();
    const stop = (): void => interrupt.abort(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    this.#interrupt = interrupt;
    try {
      return await act(interrupt.signal);
    } finally {
      this.#interrupt = undefined;
      signal.removeEventListener('abort', stop);
    }
  }

  async #untilChange(signal: AbortSignal): Promise<void> {
    const { upstreams, now, pollMs = POLL_MS } = this.#deps;
    const upstream = this.#upstream;
    if (!upstream) {
      await sleep(withJitter(pollMs), signal);
      return;
    }
    const isFirst = upstream === upstreams[0];
    const waitS = isFirst ? WAIT_S : Math.min(WAIT_S, Math.ceil(pollMs / 1000));
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
      if (etag === undefined || !isFirst) return;
    }
  }
}

/** Verified news counts more than a mere claim that there is a newer root. */
function isNewer(news: News, than: News | undefined): boolean {
  if (than === undefined) return true;
  return news.version !== undefined && (than.version === undefined || news.version > than.version);
}

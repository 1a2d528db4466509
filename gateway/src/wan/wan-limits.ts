import { setTimeout as sleep } from 'node:timers/promises';
import { SitecastError } from '@sitecast/shared/errors';
import { isOpen, localTimeOf, parseWindow } from '@sitecast/shared/fleet';

/** The least rate that is taken: at a lower one a chunk of 1 MiB wouldn't come within its deadline. */
export const MIN_WAN_BYTES_PER_S = 32_000;
/** What chunks that are fetched at one time may weigh together: so many seconds of the rate. */
const AT_ONCE_S = 4;
/** The part of the rate that may go out: a flood of reports leaves chunks the rest. */
const SENT_PART = 0.5;
/** A chunk as most are, at the default sizes. */
const TYPICAL_CHUNK_BYTES = 128 * 1024;
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
/** What a device is told to wait at most, in seconds: quiet hours may be changed before they end. */
export const MAX_RETRY_AFTER_S = 3600;

export interface WanSettings {
  /** Bytes in a second that may be taken of the site's WAN, both ways; undefined: all there is. */
  wanRate?: number | undefined;
  /** `Mon-Fri 08:00-18:00`, by this machine's time zone. */
  quietHours?: string | undefined;
  /** What devices may take in the quiet hours, in bytes a second; undefined: nothing. */
  quietRate?: number | undefined;
}

interface WanLimitsDeps {
  /** Gateways of the site that live, this one included: each takes its part of the rate. Default: one. */
  sharers?: () => number;
  /** Milliseconds since 1970. */
  now: () => number;
  /** Milliseconds on a clock that never goes back. */
  clock?: () => number;
  wait?: (ms: number, signal: AbortSignal | undefined) => Promise<unknown>;
}

/**
 * How much of the site's WAN may be taken, and when: one rate for both directions together. What devices say goes first, with half
 * of it at most; chunks have what is left. Metadata and what gateways of the site give each other don't count.
 */
export class WanLimits {
  readonly #settings: WanSettings;
  readonly #quiet: ReturnType<typeof parseWindow> | undefined;
  readonly #now: () => number;
  readonly #clock: () => number;
  readonly #wait: (ms: number, signal: AbortSignal | undefined) => Promise<unknown>;
  /** When what was taken so far will have come at the allowed rate. */
  #goneMs = Number.NEGATIVE_INFINITY;
  /** When what was sent so far will have gone out with its part of the rate. */
  #sentMs = Number.NEGATIVE_INFINITY;
  readonly #sharers: () => number;

  /** @throws SITECAST_WINDOW_INVALID */
  constructor(settings: WanSettings, { sharers, now, clock, wait }: WanLimitsDeps) {
    this.#settings = settings;
    this.#quiet = settings.quietHours === undefined ? undefined : parseWindow(settings.quietHours);
    this.#sharers = sharers ?? (() => 1);
    this.#now = now;
    this.#clock = clock ?? (() => performance.now());
    this.#wait = wait ?? ((ms, signal) => sleep(ms, undefined, { ref: false, ...(signal && { signal }) }));
  }

  get isQuiet(): boolean {
    return this.#isQuietAt(this.#now());
  }

  /** Whether there's a rate: then a chunk may take long though nothing is wrong. */
  get isPaced(): boolean {
    return this.#settings.wanRate !== undefined || this.#settings.quietRate !== undefined;
  }

  /** What may be sent at one time, of at most so many bytes: others wait meanwhile. */
  bytesAtOnce(most: number): number {
    const rate = this.#rate;
    return rate === undefined ? most : Math.min(most, Math.ceil(rate * SENT_PART * AT_ONCE_S));
  }

  /** Whether chunks may be fetched that no device has asked for yet. */
  get mayPrefetch(): boolean {
    return !this.isQuiet;
  }

  /** How many chunks are fetched at one time, of at most so many: each would be slow, and its deadline would pass. */
  fetchesAtOnce(most: number): number {
    const { wanRate, quietRate } = this.#settings;
    const leastRate = Math.min(wanRate ?? Number.POSITIVE_INFINITY, quietRate ?? Number.POSITIVE_INFINITY);
    return Math.max(1, Math.min(most, Math.floor((leastRate * AT_ONCE_S) / TYPICAL_CHUNK_BYTES)));
  }

  /** @throws SITECAST_QUIET_HOURS (unreachable) with {retryAfterS} where nothing is fetched now, not even for a device that asks */
  demandOpen(): void {
    if (!this.isQuiet || this.#settings.quietRate !== undefined) return;
    throw new SitecastError(
      'unreachable',
      'SITECAST_QUIET_HOURS',
      'this site fetches nothing in its quiet hours',
      {
        hint: 'It comes after them; `--quiet-rate` lets devices fetch slowly meanwhile.',
        data: { retryAfterS: this.#quietForS() },
      },
    );
  }

  /** Seconds until the quiet hours end, or until it's asked again. */
  #quietForS(): number {
    const nowMs = this.#now();
    for (let atMs = nowMs; atMs < nowMs + MAX_RETRY_AFTER_S * SECOND_MS; ) {
      atMs = (Math.floor(atMs / MINUTE_MS) + 1) * MINUTE_MS;
      if (!this.#isQuietAt(atMs)) return Math.min(MAX_RETRY_AFTER_S, Math.ceil((atMs - nowMs) / SECOND_MS));
    }
    return MAX_RETRY_AFTER_S;
  }

  #isQuietAt(atMs: number): boolean {
    return this.#quiet !== undefined && isOpen(this.#quiet, localTimeOf(atMs));
  }

  /** To be awaited after so many bytes came, before more are read: the sender is slowed down by that. */
  async took(lengthBytes: number, signal?: AbortSignal): Promise<void> {
    const rate = this.#rate;
    if (rate === undefined) return;
    const nowMs = this.#clock();
    this.#goneMs = Math.max(nowMs, this.#goneMs) + (lengthBytes * SECOND_MS) / rate;
    await this.#wait(this.#goneMs - nowMs, signal);
  }

  /** So many bytes go out. They don't wait for chunks; chunks wait for them. */
  sent(lengthBytes: number): void {
    const rate = this.#rate;
    if (rate === undefined) return;
    const nowMs = this.#clock();
    const lengthMs = (lengthBytes * SECOND_MS) / rate;
    this.#goneMs = Math.max(nowMs, this.#goneMs) + lengthMs;
    this.#sentMs = Math.max(nowMs, this.#sentMs) + lengthMs / SENT_PART;
  }

  /** To be awaited before more is sent that can wait. */
  async untilSent(signal?: AbortSignal): Promise<void> {
    const restMs = this.#sentMs - this.#clock();
    if (restMs > 0) await this.#wait(restMs, signal);
  }

  /** This gateway's part of what is allowed now, bytes a second. */
  get #rate(): number | undefined {
    const { wanRate, quietRate } = this.#settings;
    // One that began before the quiet hours ends at the rate of the day.
    const rate = this.isQuiet ? (quietRate ?? wanRate) : wanRate;
    return rate === undefined ? undefined : rate / Math.max(1, this.#sharers());
  }
}

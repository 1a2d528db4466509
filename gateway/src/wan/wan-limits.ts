import { setTimeout as sleep } from 'node:timers/promises';
import { FairQueue, Pacer } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { isOpen, localTimeOf, parseWindow } from '@sitecast/shared/fleet';

/** The least rate of the settings. At a lower one a chunk of 1 MiB would miss its deadline. */
export const MIN_WAN_BYTES_PER_S = 32_000;
/** Chunks that are fetched at one time take at most so many seconds of the rate together. */
const AT_ONCE_S = 4;
/** The part of the rate that may go out. A flood of reports leaves chunks the rest. */
const SENT_PART = 0.5;
/** So much of a target file comes without a wait, while there is room: orders are short. */
const PROMPT_BYTES = 64 * 1024;
/** What chunks wait for takes this part of the rate at most, over so long a time: so they wait for it for half of that time at most. */
const PROMPT_PART = 0.5;
const PROMPT_OVER_MS = 50_000;
/**
 * There is room for the begin of target files, and for other sites, where less than so many milliseconds of that part are ahead of chunks. Other
 * sites ask for a new set right after this one has fetched it: 300 kB are 19 seconds at the least rate, and a neighbour waits for 5.
 */
const FILE_ROOM_MS = 10_000;
const OTHERS_ROOM_MS = 30_000;
/** What this gateway gives to other sites, and passes on for them, takes this part of the rate at most. */
const OTHERS_PART = 0.25;
/** It takes turns in such pieces: at the least rate half a second. */
export const OTHERS_PIECE_BYTES = 4096;
const MAX_WAITING = 4096;
/** The length of most chunks, at the default sizes. */
export const TYPICAL_CHUNK_BYTES = 128 * 1024;
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
/** The longest `Retry-After`, in seconds: the settings may change before the quiet hours end. */
export const MAX_RETRY_AFTER_S = 3600;

export interface WanSettings {
  /** Bytes a second of the site's WAN, both directions together; undefined: no bound. */
  wanRate?: number | undefined;
  /** `Mon-Fri 08:00-18:00`, by this machine's time zone. */
  quietHours?: string | undefined;
  /** Bytes a second for chunks that devices ask for in the quiet hours; undefined: nothing is fetched. */
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
 * How much of the site's WAN this gateway may use, and when: one rate for both directions together. Reports go first, with half of the
 * rate at most; target files and chunks have the rest. Metadata waits for nothing, and chunks wait for it. Other sites have what this one leaves
 * of a quarter of the rate. What gateways of the site give each other does not count, nor what the protocols below HTTP take.
 *
 * Whoever can make this gateway send or fetch something (devices and hosts of the LAN, members of the fleet's network) can be hostile. The worst
 * they do: chunks have half of the rate, and wait for 25 seconds; reports for 50. Neither waits for what other sites ask for.
 */
export class WanLimits {
  readonly #settings: WanSettings;
  readonly #quiet: ReturnType<typeof parseWindow> | undefined;
  readonly #now: () => number;
  readonly #wait: (ms: number, signal: AbortSignal | undefined) => Promise<unknown>;
  /** All bytes, at the whole rate. */
  readonly #all: Pacer;
  /** Bytes that go out, at their part of the rate. */
  readonly #out: Pacer;
  /** Bytes that chunks wait for, at their part of the rate. */
  readonly #prompt: Pacer;
  /** Those of other sites, at their part of the rate. */
  readonly #others: Pacer;
  /** One piece of each at a time waits, so that chunks get every other turn, and other sites theirs. */
  readonly #files = new FairQueue({ maxRunning: 1, maxWaiting: MAX_WAITING });
  readonly #turns = new FairQueue({ maxRunning: 1, maxWaiting: MAX_WAITING });
  readonly #sharers: () => number;

  /** @throws SITECAST_WINDOW_INVALID */
  constructor(settings: WanSettings, { sharers, now, clock, wait }: WanLimitsDeps) {
    this.#settings = settings;
    this.#quiet = settings.quietHours === undefined ? undefined : parseWindow(settings.quietHours);
    this.#sharers = sharers ?? (() => 1);
    this.#now = now;
    const rate = (): number => this.#rate ?? Number.POSITIVE_INFINITY;
    const pace = { burstMs: 0, ...(clock && { now: clock }) };
    this.#all = new Pacer(rate, pace);
    this.#out = new Pacer(() => rate() * SENT_PART, pace);
    this.#prompt = new Pacer(() => rate() * PROMPT_PART, pace);
    this.#others = new Pacer(() => rate() * OTHERS_PART, pace);
    this.#wait = wait ?? ((ms, signal) => sleep(ms, undefined, { ref: false, ...(signal && { signal }) }));
  }

  get isQuiet(): boolean {
    return this.#isQuietAt(this.#now());
  }

  /** Whether there is a rate: then a chunk may take long although nothing is wrong. */
  get isPaced(): boolean {
    return this.#settings.wanRate !== undefined || this.#settings.quietRate !== undefined;
  }

  /** @returns how many bytes one request may have, at most `most`: others wait meanwhile */
  bytesAtOnce(most: number): number {
    const rate = this.#rate;
    return rate === undefined ? most : Math.min(most, Math.ceil(rate * SENT_PART * AT_ONCE_S));
  }

  /** Whether chunks may be fetched before a device asks for them. */
  get mayPrefetch(): boolean {
    return !this.isQuiet;
  }

  /** @returns how many chunks are fetched at one time, at most `most`: with more, each would be slow and miss its deadline */
  fetchesAtOnce(most: number): number {
    return Math.max(1, Math.min(most, Math.floor((this.#leastRate * AT_ONCE_S) / TYPICAL_CHUNK_BYTES)));
  }

  /** Bytes a second; infinite without a rate. */
  get #leastRate(): number {
    const { wanRate, quietRate } = this.#settings;
    return Math.min(wanRate ?? Number.POSITIVE_INFINITY, quietRate ?? Number.POSITIVE_INFINITY);
  }

  /** @throws SITECAST_QUIET_HOURS (unreachable) with {retryAfterS} where no chunk is fetched now, not even for a device */
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

  /** Seconds until the quiet hours end, at most MAX_RETRY_AFTER_S. */
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

  /** To be awaited after so many bytes came, before more are read: that slows the sender down. */
  async took(lengthBytes: number, signal?: AbortSignal): Promise<void> {
    if (this.#rate === undefined) return;
    this.#all.count(lengthBytes);
    await this.#wait(this.#all.leftMs, signal);
  }

  /**
   * As `took`, for a piece of a target file: chunks wait for a short file, as long as there is room. Any host of the LAN can ask for all
   * of the repository's files.
   * @param sumBytes of the file so far
   */
  async tookOfFile(lengthBytes: number, sumBytes: number, signal?: AbortSignal): Promise<void> {
    if (this.#rate === undefined) return;
    if (sumBytes <= PROMPT_BYTES && this.#prompt.leftMs < FILE_ROOM_MS) this.passed(lengthBytes);
    else
      await this.#files.run('', () => this.took(lengthBytes, signal), signal ?? new AbortController().signal);
  }

  /**
   * Notes bytes of metadata, or of an answer, in either direction: a new order is not to wait for an image that is on its way. Chunks wait
   * for them, but keep half of the rate: whoever sends this gateway metadata without an end can't stop them. Beyond that such bytes don't count.
   */
  passed(lengthBytes: number): void {
    const rate = this.#rate;
    if (rate === undefined) return;
    const room = ((PROMPT_OVER_MS - this.#prompt.leftMs) / SECOND_MS) * rate * PROMPT_PART;
    const counted = Math.max(0, Math.min(lengthBytes, room));
    this.#prompt.count(counted);
    this.#all.count(counted);
  }

  /** Milliseconds that so many bytes take at the least rate of the settings, shared with another gateway; 0 without one. */
  longestMs(lengthBytes: number): number {
    const rate = this.#leastRate;
    return rate === Number.POSITIVE_INFINITY ? 0 : Math.ceil((2 * SECOND_MS * lengthBytes) / rate);
  }

  /** Notes that so many bytes of this site go out. They do not wait for chunks; chunks wait for them, as for metadata. */
  sent(lengthBytes: number): void {
    if (this.#rate === undefined) return;
    this.passed(lengthBytes);
    if (this.#out.leftMs < PROMPT_OVER_MS) this.#out.count(lengthBytes);
  }

  /**
   * Waits until so many bytes may go over the WAN for another site, and counts them: other sites take turns. Nothing of this site waits for
   * them but chunks, and they wait while this site needs the half that goes ahead of chunks itself. Where it fails, they don't count.
   * @param owner the other site's gateway
   * @param onPassed called with the length of each piece whose turn has come
   * @throws the signal's reason; SITECAST_BUSY where too many wait
   */
  async forOthers(
    lengthBytes: number,
    owner: string,
    signal: AbortSignal,
    onPassed: (lengthBytes: number) => void = () => {},
  ): Promise<void> {
    if (this.#rate === undefined) return;
    let passedBytes = 0;
    try {
      while (passedBytes < lengthBytes) {
        const piece = Math.min(lengthBytes - passedBytes, OTHERS_PIECE_BYTES);
        await this.#turns.run(owner, () => this.#pass(piece, signal), signal);
        passedBytes += piece;
        onPassed(piece);
      }
    } catch (error) {
      this.gaveOthers(-passedBytes);
      throw error;
    }
  }

  /**
   * Counts bytes that went out for other sites beyond those that they have waited for: the next wait for them.
   * @param lengthBytes below 0 where fewer went out
   */
  gaveOthers(lengthBytes: number): void {
    if (this.#rate === undefined) return;
    this.#others.count(lengthBytes);
    if (lengthBytes >= 0) {
      this.passed(lengthBytes);
      return;
    }
    // Whoever waits for pieces gets them while there is room, so they were counted in full.
    this.#prompt.count(lengthBytes);
    this.#all.count(lengthBytes);
  }

  async #pass(lengthBytes: number, signal: AbortSignal): Promise<void> {
    const leftMs = (): number => Math.max(this.#others.leftMs, this.#prompt.leftMs - OTHERS_ROOM_MS);
    for (let waitMs = leftMs(); waitMs > 0; waitMs = leftMs()) await this.#wait(waitMs, signal);
    this.gaveOthers(lengthBytes);
  }

  /** To be awaited before anything is sent that can wait. */
  async untilSent(signal?: AbortSignal): Promise<void> {
    const restMs = this.#out.leftMs;
    if (restMs > 0) await this.#wait(restMs, signal);
  }

  /** This gateway's part of the rate that counts now, bytes a second. */
  get #rate(): number | undefined {
    const { wanRate, quietRate } = this.#settings;
    // A chunk whose fetch began before the quiet hours ends at the rate of the day.
    const rate = this.isQuiet ? (quietRate ?? wanRate) : wanRate;
    return rate === undefined ? undefined : rate / Math.max(1, this.#sharers());
  }
}

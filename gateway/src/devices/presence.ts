import {
  HEARD_FOR_MS,
  MAX_PRESENCE_IDS,
  MAX_TOLD_TURNS,
  type Presence,
  PRESENCE_PATH,
  presenceAnswerSchema,
  TELL_EVERY_MS,
} from '@sitecast/shared/api';
import { randomBytes } from 'node:crypto';
import { SitecastError } from '@sitecast/shared/errors';
import { Backoff, sleep, withJitter } from '@sitecast/shared/async';
import type { HeldLease } from './leases.ts';
import type { Log } from '@sitecast/shared/log';
import type { SiteUpstreams } from '../upstream/site-upstreams.ts';

interface HeardDevicesDeps {
  /** Whether an id is a device of this site, by its assignment, and not revoked. No other id is remembered. */
  isHere: (id: string) => boolean;
  /** Milliseconds of a clock that never goes back nor jumps. */
  clockMs?: () => number;
}

/** Which devices of the site this gateway has heard lately, by verified requests. Kept only in memory. */
export class HeardDevices {
  readonly #isHere: (id: string) => boolean;
  readonly #clockMs: () => number;
  readonly #heardMs = new Map<string, number>();
  readonly #begunMs: number;
  readonly #listeners: (() => void)[] = [];

  constructor({ isHere, clockMs = () => performance.now() }: HeardDevicesDeps) {
    this.#isHere = isHere;
    this.#clockMs = clockMs;
    this.#begunMs = clockMs();
  }

  /** Calls the listener when a device is heard for the first time, or again after a silence. */
  onCame(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Notes that a request of this device was verified just now. */
  note(id: string): void {
    if (!this.#isHere(id)) return;
    const heardMs = this.#heardMs.get(id);
    const nowMs = this.#clockMs();
    this.#heardMs.set(id, nowMs);
    if (heardMs === undefined || nowMs - heardMs > HEARD_FOR_MS)
      for (const listener of this.#listeners) listener();
  }

  /** The devices that count as heard. */
  now(): Set<string> {
    const found = new Set<string>();
    for (const [id, heardMs] of this.#heardMs)
      if (this.#clockMs() - heardMs <= HEARD_FOR_MS && this.#isHere(id)) found.add(id);
    return found;
  }

  /** How long ago a device was last heard, in ms; HEARD_FOR_MS if that was forgotten. */
  ageMs(id: string): number {
    const heardMs = this.#heardMs.get(id);
    return heardMs === undefined ? HEARD_FOR_MS : this.#clockMs() - heardMs;
  }

  /** Forgets a device. Called when the origin knows that the device is gone. */
  forget(id: string): void {
    if (this.ageMs(id) > HEARD_FOR_MS || !this.#isHere(id)) this.#heardMs.delete(id);
  }

  /** Whether enough time has passed since the start that every live device was heard. */
  get isSettled(): boolean {
    return this.#clockMs() - this.#begunMs >= HEARD_FOR_MS;
  }
}

/** Messages are sent up to this much early, so that a thousand gateways don't send at the same moment. */
const JITTER_MS = 6000;
const MIN_BACKOFF_MS = 2000;
const MAX_BACKOFF_MS = 30_000;
/** After a message or a new device, how long it waits for more devices to go into the same message. */
const GATHER_MS = 5000;
/** How often it checks whether this gateway is enrolled. */
const READY_CHECK_MS = 500;
/** The pause for an origin of an earlier version, which doesn't know these messages. It may be upgraded one day. */
const OLD_ORIGIN_MS = 15 * 60_000;

interface PresenceReporterDeps {
  heard: HeardDevices;
  leases: { held(): Promise<HeldLease[]> };
  upstreams: Pick<SiteUpstreams, 'ask'>;
  isEnrolled: () => boolean;
  /** What this gateway says of itself. */
  condition: () => Pick<Presence, 'timestampVersion' | 'troubles'>;
  now: () => number;
  log: Log;
}

/**
 * Tells the origin which devices this gateway hears: the changes since the last answered message, or just that the gateway lives. At the
 * start, and where the origin has lost the session, it tells everything.
 */
export class PresenceReporter {
  readonly #deps: PresenceReporterDeps;
  readonly #backoff = new Backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS);
  #session = newSession();
  /** The number of the last message that was answered. */
  #seq = 0;
  /** Devices that the origin counts as heard here. */
  readonly #reported = new Set<string>();
  /** Devices that unanswered messages have named. The origin may have read them. */
  readonly #unsure = new Set<string>();

  /** Whether the origin accepts changes. If so, a new device is reported at once. */
  #isListening = false;
  #hasNews = false;
  #wake: AbortController | undefined;

  constructor(deps: PresenceReporterDeps) {
    this.#deps = deps;
    deps.heard.onCame(() => {
      this.#hasNews = true;
      this.#wake?.abort();
    });
  }

  /** Runs until the signal fires. */
  async run(signal: AbortSignal, gatherMs = GATHER_MS): Promise<void> {
    while (!signal.aborted) {
      const waitMs = await this.step();
      if (this.#isListening) await this.#rest(waitMs, gatherMs, signal);
      else await sleep(waitMs, signal);
    }
  }

  async #rest(waitMs: number, gatherMs: number, signal: AbortSignal): Promise<void> {
    if (!this.#hasNews) {
      this.#wake = new AbortController();
      await sleep(waitMs, AbortSignal.any([signal, this.#wake.signal]));
      this.#wake = undefined;
    }
    if (this.#hasNews) await sleep(Math.min(waitMs, gatherMs), signal);
  }

  /** @returns how long to wait until the next step */
  async step(): Promise<number> {
    const { isEnrolled, upstreams, log } = this.#deps;
    if (!isEnrolled()) return READY_CHECK_MS;
    this.#isListening = this.#hasNews = false;
    const { message, isAll } = await this.#compose();
    for (const id of idsOf(message)) this.#unsure.add(id);
    try {
      const { status, json } = await upstreams.ask(PRESENCE_PATH, message);
      const answer = presenceAnswerSchema.safeParse(json);
      if (status === 404 && codeOf(json) === 'SITECAST_NOT_FOUND') {
        this.#beginAnew();
        return withJitter(OLD_ORIGIN_MS);
      }
      if (status === 200 && answer.success && answer.data.next === 'changes') {
        this.#settle(message);
        this.#isListening = true;
        return isAll ? TELL_EVERY_MS - GATHER_MS - Math.random() * JITTER_MS : 0;
      }
      if (status === 200 && answer.success) this.#beginAnew();
      log.debug({ status, code: codeOf(json) }, 'the origin is to hear again whom this gateway hears');
    } catch (error) {
      if (!(error instanceof SitecastError)) throw error;
      log.debug({ code: error.code }, 'the origin could not be told whom this gateway hears');
    }
    return this.#backoff.next();
  }

  async #compose(): Promise<{ message: Presence; isAll: boolean }> {
    const { heard, now } = this.#deps;
    const here = heard.now();
    const named = new Set(this.#unsure);
    for (const id of here) if (!this.#reported.has(id)) named.add(id);
    for (const id of this.#reported) if (!here.has(id)) named.add(id);
    const ids = [...named].slice(0, MAX_PRESENCE_IDS);
    const isAll = ids.length === named.size;
    const held = await this.#deps.leases.held();
    held.sort((one, other) => (one.sinceMs ?? 0) - (other.sinceMs ?? 0));
    const message = {
      session: this.#session,
      seq: this.#seq + 1,
      heard: ids.filter(id => here.has(id)),
      gone: ids.filter(id => !here.has(id)).map(id => ({ id, ageS: secondsOf(heard.ageMs(id)) })),
      isWhole: isAll && heard.isSettled,
      turns: held.slice(0, MAX_TOLD_TURNS).map(({ id, product, rollout, sinceMs, untilMs }) => ({
        id,
        product,
        rollout,
        ...(sinceMs !== undefined && { heldS: secondsOf(now() - sinceMs) }),
        leftS: secondsOf(untilMs - now()),
      })),
      ...this.#deps.condition(),
    };
    return { message, isAll };
  }

  #settle({ seq, heard, gone }: Presence): void {
    this.#backoff.reset();
    this.#seq = seq;
    for (const id of heard) {
      this.#reported.add(id);
      this.#unsure.delete(id);
    }
    for (const { id } of gone) {
      this.#reported.delete(id);
      this.#unsure.delete(id);
      this.#deps.heard.forget(id);
    }
  }

  #beginAnew(): void {
    this.#session = newSession();
    this.#seq = 0;
    this.#reported.clear();
    this.#unsure.clear();
  }
}

const newSession = (): string => randomBytes(8).toString('hex');

const idsOf = ({ heard, gone }: Presence): string[] => [...heard, ...gone.map(({ id }) => id)];

const secondsOf = (ms: number): number => Math.max(0, Math.round(ms / 1000));

function codeOf(json: unknown): unknown {
  return typeof json === 'object' && json !== null && 'code' in json ? json.code : undefined;
}

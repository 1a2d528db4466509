import { describeError } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import type { ControlCommand } from './ports.ts';
import type { CycleResult } from './state/status.ts';
import type { UpdateAgent } from './update/agent.ts';
import type { AgentParts } from './update/parts.ts';
import { Superseded } from './update/result.ts';

/** What a gateway is asked to wait at most, milliseconds: a little less than it would. */
const LONG_POLL_MS = 50_000;
/** An answer sooner than that says that it doesn't wait. */
const PROMPT_MS = 500;
const GATEWAY_PAUSE_MS = 5000;
/** Reports that nobody has acknowledged yet are asked after that often, milliseconds, at first. */
const FIRST_DELIVERY_MS = 1000;
const MAX_DELIVERY_MS = 5 * 60_000;
const JITTER = 0.1;
const MAX_REASON_CHARS = 1024;
/** News that turns out to be none: a gateway may always claim to have some. The pause after it doubles, milliseconds. */
const FREE_VAIN_NEWS = 2;
const FIRST_VAIN_PAUSE_MS = 500;
const MAX_VAIN_PAUSE_MS = 60_000;

/** After what nobody foresaw it's tried again; the pause doubles while it goes on, milliseconds. */
const FIRST_TROUBLE_PAUSE_MS = 5000;
const MAX_TROUBLE_PAUSE_MS = 5 * 60_000;

export interface DaemonOptions {
  pollMs: number;
  /** The first cycle begins at a random moment within that, milliseconds. */
  startJitterMs: number;
}

/**
 * Runs cycle after cycle, each as soon as there's a reason for it. One at a time. Whatever goes wrong in one of them is logged and
 * shown, and tried again after a pause: a device whose agent has ended is out of everybody's reach.
 */
export class Daemon {
  readonly #agent: UpdateAgent;
  readonly #parts: AgentParts;
  readonly #options: DaemonOptions;
  #wake = new AbortController();
  /** The repository has changed since the cycle began. */
  #hasNews = false;
  /** Of the timestamp when news was last found to be none, or some; and how often in a row it was none. */
  #newsVersion = 0;
  #vainNews = 0;
  /** The cycle under way was begun because a gateway claimed to have news. */
  #isLedByNews = false;
  /** The last long poll came to nothing. */
  #isGatewayAway = false;
  #askers: ((rest: CycleResult) => void)[] = [];
  #isStarted = false;
  /** Cycles in a row that ended in an error. */
  #troubles = 0;

  constructor(agent: UpdateAgent, parts: AgentParts, options: DaemonOptions) {
    this.#agent = agent;
    this.#parts = parts;
    this.#options = options;
  }

  /** Until the signal fires. Never throws. */
  async run(signal: AbortSignal): Promise<void> {
    const delivering = this.#keepDelivering(signal);
    try {
      while (!signal.aborted) await this.#round(signal);
    } finally {
      await delivering;
    }
  }

  async #round(signal: AbortSignal): Promise<void> {
    this.#wake = new AbortController();
    this.#hasNews = false;
    const askers = this.#askers.splice(0);
    const rest = await this.#turn(signal);
    if (signal.aborted) return;
    if (this.#isLedByNews) this.#judgeNews();
    this.#isLedByNews = false;
    for (const answer of askers) answer(rest);
    if (this.#troubles === 0) await this.#pause(rest, signal);
    else await this.#parts.clock.sleep(rest.retryMs ?? MAX_TROUBLE_PAUSE_MS, this.#wakeOr(signal));
  }

  /** The start, if that hasn't succeeded yet, and a cycle. */
  async #turn(signal: AbortSignal): Promise<CycleResult> {
    try {
      await this.#start(signal);
      const rest = await this.#cycle(signal);
      this.#troubles = 0;
      return rest;
    } catch (error) {
      return signal.aborted ? { state: 'idle' } : this.#trouble(error);
    }
  }

  async #start(signal: AbortSignal): Promise<void> {
    if (this.#isStarted) return;
    await this.#agent.start();
    this.#isStarted = true;
    await this.#parts.clock.sleep(Math.random() * this.#options.startJitterMs, this.#wakeOr(signal));
    signal.throwIfAborted();
  }

  #trouble(error: unknown): CycleResult {
    const { code, message } = describeError(error);
    const retryMs = Math.min(FIRST_TROUBLE_PAUSE_MS * 2 ** this.#troubles, MAX_TROUBLE_PAUSE_MS);
    this.#troubles += 1;
    this.#parts.log('error', `it is tried again later: ${message}`, { err: error, waitMs: retryMs });
    const rest: CycleResult = {
      state: 'failed',
      reason: { code, message: message.slice(0, MAX_REASON_CHARS) },
      retryMs,
    };
    this.#agent.show(rest);
    return rest;
  }

  /** Does what another process of the device's owner asks for. */
  async answer(command: ControlCommand): Promise<unknown> {
    const { status, stop, confirmation } = this.#parts;
    switch (command) {
      case 'status':
        await this.#agent.lookAtSlots();
        return status.current;
      case 'check':
        return this.#agent.check(stop);
      case 'update':
        return this.#update();
      default:
        confirmation.give();
        return { state: 'confirming' };
    }
  }

  /** A whole cycle. It begins now, or when the one under way is over. */
  #update(): Promise<CycleResult> {
    return new Promise<CycleResult>(resolve => {
      this.#askers.push(resolve);
      this.#wake.abort();
    });
  }

  async #cycle(signal: AbortSignal): Promise<CycleResult> {
    const stop = new AbortController();
    const done = new AbortController();
    const watching = this.#watch(stop, AbortSignal.any([signal, done.signal]));
    try {
      return await this.#agent.cycle(AbortSignal.any([signal, stop.signal]));
    } catch (error) {
      if (error instanceof Superseded) return { state: 'idle', retryMs: 0 };
      throw error;
    } finally {
      done.abort();
      await watching;
    }
  }

  /** A pause or abort stops a download at once, not at its end. */
  async #watch(stop: AbortController, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        // The cycle may have looked before it: it's followed by another one.
        // Awaited each time round: `||=` would skip the wait once there is news, and spin.
        const hasChanged = await this.#untilChange(this.#options.pollMs, signal);
        this.#hasNews ||= hasChanged;
        if (signal.aborted) return;
        if (!(await this.#agent.stillWants(signal))) stop.abort(new Superseded('no longer wanted'));
        this.#judgeNews();
        await this.#pauseIfVain(signal);
      } catch (error) {
        if (signal.aborted) return;
        // The cycle itself will meet whatever it is.
        this.#parts.log('warn', 'watching for changes failed; it goes on', { err: error });
        await this.#parts.clock.sleep(GATEWAY_PAUSE_MS, signal);
      }
    }
  }

  async #pause(rest: CycleResult, signal: AbortSignal): Promise<void> {
    const { pollMs } = this.#options;
    const jittered = pollMs * (1 + JITTER * (2 * Math.random() - 1));
    await this.#pauseIfVain(this.#wakeOr(signal));
    if (this.#hasNews) return;
    const pauseMs = Math.min(jittered, rest.retryMs ?? jittered);
    this.#isLedByNews = await this.#untilChange(pauseMs, this.#wakeOr(signal));
  }

  /** After a refresh that news has led to. Whatever a gateway says, only a newer timestamp that was verified is news. */
  #judgeNews(): void {
    const { timestampVersion } = this.#parts.trust;
    this.#vainNews = timestampVersion === this.#newsVersion ? this.#vainNews + 1 : 0;
    this.#newsVersion = timestampVersion;
  }

  async #pauseIfVain(signal: AbortSignal): Promise<void> {
    const doublings = this.#vainNews - FREE_VAIN_NEWS - 1;
    if (doublings < 0) return;
    await this.#parts.clock.sleep(Math.min(FIRST_VAIN_PAUSE_MS * 2 ** doublings, MAX_VAIN_PAUSE_MS), signal);
  }

  /** Beside the cycles: a long download has something to tell, too. */
  async #keepDelivering(signal: AbortSignal): Promise<void> {
    const { outbox, clock, log } = this.#parts;
    let pauseMs = FIRST_DELIVERY_MS;
    for (let newest = outbox.newest; !signal.aborted; ) {
      await clock.sleep(pauseMs, signal);
      // As long as nothing new is to be told, an origin that is away is asked ever less often.
      const hasNews = newest !== outbox.newest || outbox.pendingCount === 0;
      newest = outbox.newest;
      pauseMs = hasNews ? FIRST_DELIVERY_MS : Math.min(pauseMs * 2, MAX_DELIVERY_MS);
      if (signal.aborted || outbox.pendingCount === 0) continue;
      try {
        await this.#agent.deliver(signal);
      } catch (error) {
        if (!signal.aborted)
          log('warn', "reports aren't delivered; they are kept, and sent later", { err: error });
      }
    }
  }

  /** Until the repository changes (then true), so much time has passed, or the signal fires. */
  async #untilChange(ms: number, signal: AbortSignal): Promise<boolean> {
    const ended = new AbortController();
    const until = AbortSignal.any([signal, ended.signal]);
    const slept = this.#parts.clock.sleep(ms, until).then(() => false);
    const isChanged = await Promise.race([slept, this.#changed(until)]);
    ended.abort();
    return isChanged && !signal.aborted;
  }

  /** Long polls. A gateway that doesn't know them answers at once: then there's just the poll. */
  async #changed(signal: AbortSignal): Promise<boolean> {
    const { gateways, clock, exchange } = this.#parts;
    let promptAnswers = 0;
    while (!signal.aborted) {
      const beganMs = performance.now();
      try {
        const gateway = gateways.liveliest;
        const found = await gateway.waitForChange(LONG_POLL_MS, signal);
        gateways.noteHeard(gateway);
        this.#isGatewayAway = false;
        if (found === 'changed') return true;
        if (performance.now() - beganMs < PROMPT_MS) promptAnswers += 1;
      } catch (error) {
        if (!(error instanceof SitecastError) && !signal.aborted)
          this.#parts.log('error', 'waiting for changes failed; it goes on', { err: error });
        if (!this.#isGatewayAway && !signal.aborted) exchange?.lostGateway();
        this.#isGatewayAway = true;
        await clock.sleep(GATEWAY_PAUSE_MS, signal);
      }
      if (promptAnswers > 1) await clock.sleep(Number.POSITIVE_INFINITY, signal);
    }
    return false;
  }

  #wakeOr(signal: AbortSignal): AbortSignal {
    return AbortSignal.any([signal, this.#wake.signal]);
  }
}

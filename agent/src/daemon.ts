import { describeError } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import type { SiteExchange } from './peers/site-exchange.ts';
import type { AgentClock, ControlCommand, Log } from './ports.ts';
import type { Outbox } from './reports/outbox.ts';
import type { CycleResult, StatusBoard } from './state/status.ts';
import type { UpdateAgent } from './update/agent.ts';
import type { Confirmation } from './update/boot-steps.ts';
import { CycleEnd, resultOf, superseded } from './update/result.ts';
import type { Gateways } from './upstream/gateways.ts';
import type { Trust } from './upstream/trust.ts';

/** Milliseconds that a gateway is asked to wait at most: a little less than it would. */
const LONG_POLL_MS = 50_000;
/** Milliseconds: a gateway that answers sooner doesn't wait. */
const PROMPT_MS = 500;
const GATEWAY_PAUSE_MS = 5000;
/** Of the pauses while no gateway answers, one in so many is followed by a question to other devices. */
const PAUSES_PER_QUESTION = 3;
/** Milliseconds between two deliveries, at first, while reports aren't acknowledged. */
const FIRST_DELIVERY_MS = 1000;
const MAX_DELIVERY_MS = 5 * 60_000;
const JITTER = 0.1;
const MAX_REASON_CHARS = 1024;
/** Claims of news, in a row, that may turn out to be false before the pauses begin. */
const FREE_VAIN_NEWS = 2;
/** The pause after a false claim; doubled with each. A gateway, or a machine in its place, could claim to have news all the time. */
const FIRST_VAIN_PAUSE_MS = 500;
const MAX_VAIN_PAUSE_MS = 60_000;

/** Milliseconds before the next cycle after an unforeseen error; doubled while errors go on. */
const FIRST_TROUBLE_PAUSE_MS = 5000;
const MAX_TROUBLE_PAUSE_MS = 5 * 60_000;

interface DaemonDependencies {
  agent: UpdateAgent;
  trust: Pick<Trust, 'timestampVersion' | 'hasNewsNearby'>;
  gateways: Pick<Gateways, 'liveliest' | 'noteHeard'>;
  exchange: Pick<SiteExchange, 'lostGateway'> | undefined;
  outbox: Pick<Outbox, 'newest' | 'pendingCount'>;
  status: Pick<StatusBoard, 'current'>;
  confirmation: Confirmation;
  clock: AgentClock;
  log: Log;
  /** Fires when this process is asked to end. */
  stop: AbortSignal;
  pollMs: number;
  /** Milliseconds: the first cycle begins at a random moment within that. */
  startJitterMs: number;
}

/**
 * Runs cycle after cycle, one at a time, each as soon as there is a reason for it. An error in a cycle is logged and shown, and the
 * cycle is tried again after a pause: a device whose agent has ended can't be reached any more.
 */
export class Daemon {
  readonly #deps: DaemonDependencies;
  #wake = new AbortController();
  /** The repository has changed since the cycle began. */
  #hasNews = false;
  /** The version of the timestamp when news was last judged; and how often in a row the news was vain. */
  #newsVersion = 0;
  #vainNews = 0;
  /** The cycle under way was begun because a gateway claimed to have news. */
  #isLedByNews = false;
  /** The last long poll came to nothing. */
  #isGatewayAway = false;
  #askers: ((result: CycleResult) => void)[] = [];
  #isStarted = false;
  /** Cycles in a row that ended in an error. */
  #troubles = 0;

  constructor(deps: DaemonDependencies) {
    this.#deps = deps;
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
    const result = await this.#turn(signal);
    if (signal.aborted) return;
    if (this.#isLedByNews) this.#judgeNews();
    this.#isLedByNews = false;
    for (const answer of askers) answer(result);
    if (this.#troubles === 0) await this.#pause(result, signal);
    else await this.#deps.clock.sleep(result.retryMs ?? MAX_TROUBLE_PAUSE_MS, this.#wakeOr(signal));
  }

  /** The start, unless it has succeeded already, and a cycle. */
  async #turn(signal: AbortSignal): Promise<CycleResult> {
    try {
      await this.#start(signal);
      const result = await this.#cycle(signal);
      this.#troubles = 0;
      return result;
    } catch (error) {
      return signal.aborted ? { state: 'idle' } : this.#trouble(error);
    }
  }

  async #start(signal: AbortSignal): Promise<void> {
    if (this.#isStarted) return;
    await this.#deps.agent.start();
    this.#isStarted = true;
    await this.#deps.clock.sleep(Math.random() * this.#deps.startJitterMs, this.#wakeOr(signal));
    signal.throwIfAborted();
  }

  #trouble(error: unknown): CycleResult {
    const { code, message } = describeError(error);
    const known = resultOf(error);
    // What passes by itself, as a full disk, has a time of its own.
    const mostMs = known?.retryMs ?? MAX_TROUBLE_PAUSE_MS;
    const retryMs = Math.min(FIRST_TROUBLE_PAUSE_MS * 2 ** this.#troubles, mostMs);
    this.#troubles += 1;
    this.#deps.log('error', `it is tried again later: ${message}`, { err: error, waitMs: retryMs });
    const found = known ?? { state: 'failed' as const, reason: { code, message } };
    const { reason } = found;
    const result: CycleResult = {
      ...found,
      ...(reason && { reason: { ...reason, message: reason.message.slice(0, MAX_REASON_CHARS) } }),
      retryMs,
    };
    this.#deps.agent.show(result);
    return result;
  }

  /** Does what another process of the device's owner asks for. */
  async answer(command: Exclude<ControlCommand, 'settings'>): Promise<unknown> {
    const { status, stop, confirmation } = this.#deps;
    switch (command) {
      case 'status':
        await this.#deps.agent.lookAtSlots();
        return status.current;
      case 'check':
        return this.#deps.agent.check(stop);
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
      return await this.#deps.agent.cycle(AbortSignal.any([signal, stop.signal]));
    } catch (error) {
      if (error instanceof CycleEnd) return error.result;
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
        // The cycle may have checked before the news came, so another one follows.
        // Awaited each time: `||=` would skip the wait once there is news, and spin.
        const hasChanged = await this.#untilChange(this.#deps.pollMs, signal);
        this.#hasNews ||= hasChanged;
        if (signal.aborted) return;
        if (!(await this.#deps.agent.stillWants(signal))) stop.abort(superseded('no longer wanted'));
        this.#judgeNews();
        await this.#pauseIfVain(signal);
      } catch (error) {
        if (signal.aborted) return;
        // The cycle gets the same error, and handles it.
        this.#deps.log('warn', 'watching for changes failed; it goes on', { err: error });
        await this.#deps.clock.sleep(GATEWAY_PAUSE_MS, signal);
      }
    }
  }

  async #pause(result: CycleResult, signal: AbortSignal): Promise<void> {
    const { pollMs } = this.#deps;
    const jittered = pollMs * (1 + JITTER * (2 * Math.random() - 1));
    await this.#pauseIfVain(this.#wakeOr(signal));
    if (this.#hasNews) return;
    const pauseMs = Math.min(jittered, result.retryMs ?? jittered);
    this.#isLedByNews = await this.#untilChange(pauseMs, this.#wakeOr(signal));
  }

  /** After a refresh that news has led to. Only a newer, verified timestamp is news, whatever a gateway says. */
  #judgeNews(): void {
    const { timestampVersion } = this.#deps.trust;
    this.#vainNews = timestampVersion === this.#newsVersion ? this.#vainNews + 1 : 0;
    this.#newsVersion = timestampVersion;
  }

  async #pauseIfVain(signal: AbortSignal): Promise<void> {
    const doublings = this.#vainNews - FREE_VAIN_NEWS - 1;
    if (doublings < 0) return;
    await this.#deps.clock.sleep(Math.min(FIRST_VAIN_PAUSE_MS * 2 ** doublings, MAX_VAIN_PAUSE_MS), signal);
  }

  /** Runs beside the cycles: there is something to report during a long download, too. */
  async #keepDelivering(signal: AbortSignal): Promise<void> {
    const { outbox, clock, log } = this.#deps;
    let pauseMs = FIRST_DELIVERY_MS;
    for (let newest = outbox.newest; !signal.aborted; ) {
      await clock.sleep(pauseMs, signal);
      // While nothing new is to be reported, an origin that is away is asked ever less often.
      const hasNews = newest !== outbox.newest || outbox.pendingCount === 0;
      newest = outbox.newest;
      pauseMs = hasNews ? FIRST_DELIVERY_MS : Math.min(pauseMs * 2, MAX_DELIVERY_MS);
      if (signal.aborted || outbox.pendingCount === 0) continue;
      try {
        await this.#deps.agent.deliver(signal);
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
    const slept = this.#deps.clock.sleep(ms, until).then(() => false);
    const isChanged = await Promise.race([slept, this.#changed(until)]);
    ended.abort();
    return isChanged && !signal.aborted;
  }

  /** By long polls. A gateway that doesn't know them answers at once; then only `pollMs` leads to the next cycle. */
  async #changed(signal: AbortSignal): Promise<boolean> {
    const { gateways, clock, exchange } = this.#deps;
    let promptAnswers = 0;
    let pauses = 0;
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
          this.#deps.log('error', 'waiting for changes failed; it goes on', { err: error });
        if (!this.#isGatewayAway && !signal.aborted) exchange?.lostGateway();
        this.#isGatewayAway = true;
        await clock.sleep(GATEWAY_PAUSE_MS, signal);
        pauses += 1;
        const isDue = pauses % PAUSES_PER_QUESTION === 1 && !signal.aborted;
        if (isDue && (await this.#hasNewsNearby(signal))) return true;
      }
      if (promptAnswers > 1) await clock.sleep(Number.POSITIVE_INFINITY, signal);
    }
    return false;
  }

  /** Never throws: whoever waits for changes goes on. */
  async #hasNewsNearby(signal: AbortSignal): Promise<boolean> {
    try {
      return await this.#deps.trust.hasNewsNearby(signal);
    } catch (error) {
      if (!signal.aborted) this.#deps.log('warn', 'asking other devices for news failed', { err: error });
      return false;
    }
  }

  #wakeOr(signal: AbortSignal): AbortSignal {
    return AbortSignal.any([signal, this.#wake.signal]);
  }
}

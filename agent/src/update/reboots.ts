import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Reason, Update } from '../state/agent-state.ts';
import type { AgentClock, BootControl, BootState, Log } from '../ports.ts';
import type { CycleResult } from '../state/status.ts';

/** How long a boot may take to begin, in ms. */
const PATIENCE_MS = 60_000;
const FIRST_LOOK_MS = 250;
const MAX_LOOK_MS = 10_000;
/** The wait between two requests for a boot, in ms; doubled each time. */
const FIRST_PAUSE_MS = 60_000;
const MAX_PAUSE_MS = 3_600_000;
/** How often a boot into the new slot is asked for, within about two hours. For a boot out of a bad slot there is no limit. */
const MAX_ASKED = 8;

/** The change of state to store before a boot is asked for: after the boot, nothing else shows that. */
export function askedOnceMore({ rebootsAsked = 0 }: Update): Pick<Update, 'rebootsAsked'> {
  return { rebootsAsked: rebootsAsked + 1 };
}

/** A boot to ask for. */
export interface RebootRequest {
  /** Tells one boot that is wanted from another. */
  about: string;
  /** How often it was asked for, this time included. */
  asked: number;
}

interface RebootDependencies {
  boot: Pick<BootControl, 'reboot' | 'read'>;
  clock: AgentClock;
  log: Log;
  stop: AbortSignal;
}

/** Asks for boots and waits for them. A boot that doesn't come is logged, counted, and asked for at growing intervals. */
export class Reboots {
  readonly #deps: RebootDependencies;
  #pause: { about: string; result: CycleResult } | undefined;

  constructor(deps: RebootDependencies) {
    this.#deps = deps;
  }

  /** The result to wait with, while it is too early to ask for this boot again. */
  pauseOf({ about }: Pick<RebootRequest, 'about'>): CycleResult | undefined {
    return this.#pause?.about === about ? this.#pause.result : undefined;
  }

  isInVain({ rebootsAsked = 0 }: Update): boolean {
    return rebootsAsked >= MAX_ASKED;
  }

  neverCame({ rebootsAsked = 0 }: Update): Reason {
    return {
      code: 'SITECAST_REBOOT_FAILED',
      message: `the machine was asked ${rebootsAsked} times to boot, and never did`,
    };
  }

  /**
   * Asks for a boot and waits for it. On many machines this process ends before it returns.
   * @param bootId of the boot that should end
   * @returns the state after the boot; or the result of a cycle that asks for it again later
   * @throws the reason why the agent is stopped, which is usually the boot itself
   */
  async ask(request: RebootRequest, bootId: string | undefined): Promise<BootState | CycleResult> {
    const { boot, stop } = this.#deps;
    stop.throwIfAborted();
    let problem: string | undefined;
    try {
      await boot.reboot();
    } catch (error) {
      stop.throwIfAborted();
      problem = messageOf(error);
    }
    return (
      (await this.#untilBooted(bootId, problem === undefined ? PATIENCE_MS : 0)) ??
      this.#pauseAfter(request, problem)
    );
  }

  async #untilBooted(bootId: string | undefined, patienceMs: number): Promise<BootState | undefined> {
    const { clock, stop } = this.#deps;
    let lookMs = FIRST_LOOK_MS;
    for (let waitedMs = 0; ; waitedMs += lookMs, lookMs = Math.min(2 * lookMs, MAX_LOOK_MS)) {
      const state = await this.#look();
      if (state && state.bootId !== bootId) return state;
      if (waitedMs >= patienceMs) return undefined;
      await clock.sleep(lookMs, stop);
      stop.throwIfAborted();
    }
  }

  /** The state of the boot. Undefined if the boot control doesn't answer, like on a machine that is going down. */
  async #look(): Promise<BootState | undefined> {
    const { boot, stop } = this.#deps;
    try {
      return await boot.read();
    } catch (error) {
      stop.throwIfAborted();
      messageOf(error);
      return undefined;
    }
  }

  #pauseAfter({ about, asked }: RebootRequest, problem: string | undefined): CycleResult {
    const { clock, log, stop } = this.#deps;
    const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** (asked - 1), MAX_PAUSE_MS);
    const times = asked === 1 ? 'once' : `${asked} times`;
    const why = problem === undefined ? '' : ` (${problem})`;
    const reason = {
      code: 'SITECAST_REBOOT_PENDING',
      message: `a reboot was asked for ${times} and has not begun${why}`,
    };
    log('error', reason.message, { code: reason.code, askedAgainInS: pauseMs / 1000 });
    const result: CycleResult = { state: 'rebooting', waitingFor: 'reboot', reason, retryMs: pauseMs };
    const pause = { about, result };
    this.#pause = pause;
    void clock.sleep(pauseMs, stop).then(() => {
      if (this.#pause === pause) this.#pause = undefined;
    });
    return result;
  }
}

/** The boot that an update needs now: into its slot, or out of it. */
export function requestOf({ rollout, phase, rebootsAsked = 1 }: Update): RebootRequest {
  return { about: [rollout.id, rollout.attempt, phase].join(' '), asked: rebootsAsked };
}

/** @throws a mistake in the program */
function messageOf(error: unknown): string {
  if (error instanceof SitecastError || isSystemError(error)) return error.message;
  throw error;
}

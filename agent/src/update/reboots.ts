import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Reason, Update } from '../state/agent-state.ts';
import type { AgentClock, BootControl, BootState, Log } from '../ports.ts';
import type { CycleResult } from '../state/status.ts';

/** Milliseconds that a boot may take to begin. */
const PATIENCE_MS = 60_000;
const FIRST_LOOK_MS = 250;
const MAX_LOOK_MS = 10_000;
/** Milliseconds between two requests for a boot, doubled each time. */
const FIRST_PAUSE_MS = 60_000;
const MAX_PAUSE_MS = 3_600_000;
/** Times that a boot into the new slot is asked for, within about two hours. A boot out of a bad slot is asked for without end. */
const MAX_ASKED = 8;

/** The change to note before a boot is asked for. After the boot nothing else shows that it was asked for. */
export function askedOnceMore({ rebootsAsked = 0 }: Update): Pick<Update, 'rebootsAsked'> {
  return { rebootsAsked: rebootsAsked + 1 };
}

interface RebootDependencies {
  boot: Pick<BootControl, 'reboot' | 'read'>;
  clock: AgentClock;
  log: Log;
  stop: AbortSignal;
}

/** Asks for boots and waits for them. A boot that doesn't come is logged, counted, and asked for ever less often. */
export class Reboots {
  readonly #deps: RebootDependencies;
  #pause: { about: string; result: CycleResult } | undefined;

  constructor(deps: RebootDependencies) {
    this.#deps = deps;
  }

  /** Set while it is too early to ask for this boot once more. */
  pauseOf(update: Update): CycleResult | undefined {
    return this.#pause?.about === subjectOf(update) ? this.#pause.result : undefined;
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
   * Asks for a boot and waits for it. Many machines end this process before it returns.
   * @param bootId of the boot that is to be over
   * @returns what runs after the boot; or the result of a cycle that asks for it again later
   * @throws the reason why the agent is stopped. Most often that is the boot itself
   */
  async ask(update: Update, bootId: string | undefined): Promise<BootState | CycleResult> {
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
      this.#pauseAfter(update, problem)
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

  /** A machine that is going down may not answer any more. */
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

  #pauseAfter(update: Update, problem: string | undefined): CycleResult {
    const { clock, log, stop } = this.#deps;
    const { rebootsAsked = 1 } = update;
    const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** (rebootsAsked - 1), MAX_PAUSE_MS);
    const times = rebootsAsked === 1 ? 'once' : `${rebootsAsked} times`;
    const why = problem === undefined ? '' : ` (${problem})`;
    const reason = {
      code: 'SITECAST_REBOOT_PENDING',
      message: `a reboot was asked for ${times} and has not begun${why}`,
    };
    log('error', reason.message, { code: reason.code, askedAgainInS: pauseMs / 1000 });
    const result: CycleResult = { state: 'rebooting', waitingFor: 'reboot', reason, retryMs: pauseMs };
    const pause = { about: subjectOf(update), result };
    this.#pause = pause;
    void clock.sleep(pauseMs, stop).then(() => {
      if (this.#pause === pause) this.#pause = undefined;
    });
    return result;
  }
}

function subjectOf({ rollout, phase }: Update): string {
  return [rollout.id, rollout.attempt, phase].join(' ');
}

/** @throws a mistake in the program */
function messageOf(error: unknown): string {
  if (error instanceof SitecastError || isSystemError(error)) return error.message;
  throw error;
}

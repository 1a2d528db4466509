import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Reason, Update } from '../state/agent-state.ts';
import type { BootState } from '../ports.ts';
import type { CycleResult } from '../state/status.ts';
import type { AgentParts } from './parts.ts';

/** How long a boot that was asked for may take to begin, milliseconds. */
const PATIENCE_MS = 60_000;
const FIRST_LOOK_MS = 250;
const MAX_LOOK_MS = 10_000;
/** Between two askings, milliseconds: doubled each time. */
const FIRST_PAUSE_MS = 60_000;
const MAX_PAUSE_MS = 3_600_000;
/** As many times a boot into the new slot is asked for, within about two hours. Out of a bad slot there's no end to it. */
const MAX_ASKED = 8;

/** To be noted before a boot is asked for: most machines remember nothing else of it. */
export function askedOnceMore({ rebootsAsked = 0 }: Update): Pick<Update, 'rebootsAsked'> {
  return { rebootsAsked: rebootsAsked + 1 };
}

/** Asks for boots and waits for them; one that doesn't come is said, counted, and asked for ever less often. */
export class Reboots {
  readonly #parts: Pick<AgentParts, 'boot' | 'clock' | 'log' | 'stop'>;
  #resting: { about: string; rest: CycleResult } | undefined;

  constructor(parts: Pick<AgentParts, 'boot' | 'clock' | 'log' | 'stop'>) {
    this.#parts = parts;
  }

  /** Where it rests, while it's too early to ask for this boot once more. */
  restingIn(update: Update): CycleResult | undefined {
    return this.#resting?.about === subjectOf(update) ? this.#resting.rest : undefined;
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
   * Asks for a boot and waits until there was one. Many machines end this process before.
   * @param bootId of the boot that is to be over
   * @returns what runs after the boot; or where to rest until it's asked for again
   * @throws the reason of the agent's being stopped: most often that's the boot, coming
   */
  async ask(update: Update, bootId: string | undefined): Promise<BootState | CycleResult> {
    const { boot, stop } = this.#parts;
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
      this.#rest(update, problem)
    );
  }

  async #untilBooted(bootId: string | undefined, patienceMs: number): Promise<BootState | undefined> {
    const { clock, stop } = this.#parts;
    let lookMs = FIRST_LOOK_MS;
    for (let waitedMs = 0; ; waitedMs += lookMs, lookMs = Math.min(2 * lookMs, MAX_LOOK_MS)) {
      const state = await this.#look();
      if (state && state.bootId !== bootId) return state;
      if (waitedMs >= patienceMs) return undefined;
      await clock.sleep(lookMs, stop);
      stop.throwIfAborted();
    }
  }

  /** A machine that is going down may give no answer any more. */
  async #look(): Promise<BootState | undefined> {
    const { boot, stop } = this.#parts;
    try {
      return await boot.read();
    } catch (error) {
      stop.throwIfAborted();
      messageOf(error);
      return undefined;
    }
  }

  #rest(update: Update, problem: string | undefined): CycleResult {
    const { clock, log, stop } = this.#parts;
    const { rebootsAsked = 1 } = update;
    const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** (rebootsAsked - 1), MAX_PAUSE_MS);
    const times = rebootsAsked === 1 ? 'once' : `${rebootsAsked} times`;
    const why = problem === undefined ? '' : ` (${problem})`;
    const reason = {
      code: 'SITECAST_REBOOT_PENDING',
      message: `a reboot was asked for ${times} and has not begun${why}`,
    };
    log('error', reason.message, { code: reason.code, askedAgainInS: pauseMs / 1000 });
    const rest: CycleResult = { state: 'rebooting', waitingFor: 'reboot', reason, retryMs: pauseMs };
    const resting = { about: subjectOf(update), rest };
    this.#resting = resting;
    void clock.sleep(pauseMs, stop).then(() => {
      if (this.#resting === resting) this.#resting = undefined;
    });
    return rest;
  }
}

function subjectOf({ rollout, phase }: Update): string {
  return [rollout.id, rollout.attempt, phase].join(' ');
}

/** @throws what isn't a matter of the boot control, but a mistake of ours */
function messageOf(error: unknown): string {
  if (error instanceof SitecastError || isSystemError(error)) return error.message;
  throw error;
}

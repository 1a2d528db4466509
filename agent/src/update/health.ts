import type { AgentClock, HealthCheck, HealthNotes, Log } from '../ports.ts';
import type { HookSubject, Hooks } from './hooks.ts';

interface HealthDependencies {
  hooks: Pick<Hooks, 'run'>;
  checks: readonly HealthCheck[];
  /** How often a failed check is repeated, and after how long. */
  retries: number;
  retryPauseMs: number;
  /** Milliseconds that one of `checks` may take. The command has its own bound. */
  timeoutMs: number;
  clock: AgentClock;
  log: Log;
  /** Fires when this process is asked to end. */
  stop: AbortSignal;
}

/** Judges the slot that runs: the built-in checks, then the owner's command. What can't be reported, or a site that is offline, doesn't speak against a slot. */
export class Health {
  readonly #deps: HealthDependencies;

  constructor(deps: HealthDependencies) {
    this.#deps = deps;
  }

  /** What the checks want to know of the time before the update. */
  async notes(): Promise<HealthNotes> {
    const notes: HealthNotes = {};
    for (const { note } of this.#deps.checks) if (note) Object.assign(notes, await note(this.#signal()));
    return notes;
  }

  /**
   * @returns what speaks against the slot, also after the retries
   * @throws the reason of `stop`
   */
  async judge(subject: HookSubject, notes: HealthNotes): Promise<string | undefined> {
    const { retries, retryPauseMs, clock, log, stop } = this.#deps;
    for (let tries = 0; ; tries += 1) {
      const problem = await this.#once(subject, notes);
      if (problem === undefined || tries >= retries) return problem;
      const left = retries - tries;
      log('warn', `${problem}; the health check is repeated, ${left === 1 ? 'once' : `up to ${left} times`}`);
      await clock.sleep(retryPauseMs, stop);
      stop.throwIfAborted();
    }
  }

  async #once(subject: HookSubject, notes: HealthNotes): Promise<string | undefined> {
    const { hooks, checks, stop } = this.#deps;
    for (const { name, check } of checks) {
      const problem = await check(notes, this.#signal());
      stop.throwIfAborted();
      if (problem !== undefined) return `${name}: ${problem}`;
    }
    const result = await hooks.run('health', subject, stop);
    return result.kind === 'done' ? undefined : result.message;
  }

  #signal(): AbortSignal {
    const { stop, timeoutMs } = this.#deps;
    return AbortSignal.any([stop, AbortSignal.timeout(timeoutMs)]);
  }
}

import type { AgentClock, HealthCheck, HealthNotes, Log } from '../ports.ts';
import type { HookSubject, Hooks } from './hooks.ts';

interface HealthDependencies {
  hooks: Pick<Hooks, 'run'>;
  checks: readonly HealthCheck[];
  /** How often a failed check is repeated. */
  retries: number;
  retryPauseMs: number;
  /** How long each of `checks` may take, in ms. The command has its own bound. */
  timeoutMs: number;
  clock: AgentClock;
  log: Log;
  /** Aborted when this process is asked to end. */
  stop: AbortSignal;
}

/** Judges the running slot: the built-in checks, then the owner's command. Unsent reports or an offline site don't count against a slot. */
export class Health {
  readonly #deps: HealthDependencies;

  constructor(deps: HealthDependencies) {
    this.#deps = deps;
  }

  /** What the checks need to know from before the update. */
  async notes(): Promise<HealthNotes> {
    const notes: HealthNotes = {};
    for (const { note } of this.#deps.checks) if (note) Object.assign(notes, await note(this.#signal()));
    return notes;
  }

  /**
   * @returns what counts against the slot after all retries; undefined: nothing
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

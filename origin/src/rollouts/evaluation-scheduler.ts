import type { LimitFunction } from 'p-limit';
import { type Log, RecurringErrors } from '../log.ts';
import type { After } from '../upkeep.ts';

/** How long to wait before a decision that couldn't be published is tried again. */
const RETRY_MS = 1000;
/** The longest timer. `reconcile` evaluates every rollout each minute anyway. */
const MAX_TIMER_MS = 24 * 3_600_000;

interface SchedulerDeps {
  /** Lets one evaluation run at a time. */
  serial: LimitFunction;
  evaluate: (rolloutId: string) => Promise<void>;
  after: After;
  log: Log;
}

/** Schedules the evaluation of rollouts: soon, or at a set time. */
export class EvaluationScheduler {
  readonly #deps: SchedulerDeps;
  readonly #errors: RecurringErrors;
  readonly #waiting = new Set<string>();
  readonly #timers = new Map<string, () => void>();

  constructor(deps: SchedulerDeps) {
    this.#deps = deps;
    this.#errors = new RecurringErrors(deps.log);
  }

  /** Evaluates soon, once; after a failure again a little later. */
  soon(id: string): void {
    this.#schedule(id, 0);
  }

  /** Evaluates after a delay. This replaces the timer that was set before. */
  later(id: string, delayMs: number): void {
    this.#setTimer(id, delayMs, () => this.soon(id));
  }

  /** Cancels the rollout's timer. */
  cancel(id: string): void {
    this.#timers.get(id)?.();
    this.#timers.delete(id);
    this.#errors.succeeded(id);
  }

  stop(): void {
    for (const cancel of this.#timers.values()) cancel();
  }

  #schedule(id: string, delayMs: number): void {
    if (this.#waiting.has(id)) return;
    this.#waiting.add(id);
    const { serial, evaluate } = this.#deps;
    const act = (): void => {
      serial(async () => {
        this.#waiting.delete(id);
        await evaluate(id);
        this.#errors.succeeded(id);
      }).catch((error: unknown) => {
        const fields = { rollout: id, retryMs: RETRY_MS };
        this.#errors.failed(id, error, 'a decision about a rollout could not be published', fields);
        this.#schedule(id, RETRY_MS);
      });
    };
    if (delayMs === 0) act();
    else this.#setTimer(`retry ${id}`, delayMs, act);
  }

  #setTimer(name: string, delayMs: number, act: () => void): void {
    this.#timers.get(name)?.();
    const cancel = this.#deps.after(Math.min(Math.max(delayMs, 0), MAX_TIMER_MS), () => {
      this.#timers.delete(name);
      act();
    });
    this.#timers.set(name, cancel);
  }
}

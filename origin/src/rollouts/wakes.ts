import type { LimitFunction } from 'p-limit';
import { type Log, RecurringErrors } from '../log.ts';
import type { After } from '../upkeep.ts';

/** How soon a decision that couldn't be published is tried again. */
const RETRY_MS = 1000;
/** Timers beyond a day aren't set: whatever is due is looked for every minute, too. */
const MAX_TIMER_MS = 24 * 3_600_000;

interface WakesDeps {
  /** Where judging waits for its turn. */
  serial: LimitFunction;
  judge: (rolloutId: string) => Promise<void>;
  after: After;
  log: Log;
}

/** When which rollout is to be judged: soon, or at a time that was set. */
export class Wakes {
  readonly #deps: WakesDeps;
  readonly #errors: RecurringErrors;
  readonly #waiting = new Set<string>();
  readonly #timers = new Map<string, () => void>();

  constructor(deps: WakesDeps) {
    this.#deps = deps;
    this.#errors = new RecurringErrors(deps.log);
  }

  /** Judges soon, once; if that fails, again a little later. */
  soon(id: string): void {
    this.#wake(id, 0);
  }

  /** Judges after so long; what was set for it before is off. */
  later(id: string, delayMs: number): void {
    this.#setTimer(id, delayMs, () => this.soon(id));
  }

  /** Calls off what was set for it. */
  forget(id: string): void {
    this.#timers.get(id)?.();
    this.#timers.delete(id);
    this.#errors.succeeded(id);
  }

  stop(): void {
    for (const cancel of this.#timers.values()) cancel();
  }

  #wake(id: string, delayMs: number): void {
    if (this.#waiting.has(id)) return;
    this.#waiting.add(id);
    const { serial, judge } = this.#deps;
    const act = (): void => {
      serial(async () => {
        this.#waiting.delete(id);
        await judge(id);
        this.#errors.succeeded(id);
      }).catch((error: unknown) => {
        const fields = { rollout: id, retryMs: RETRY_MS };
        this.#errors.failed(id, error, 'a decision about a rollout could not be published', fields);
        this.#wake(id, RETRY_MS);
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

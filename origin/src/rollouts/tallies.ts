import type { Rollout } from '@sitecast/shared/fleet';
import { type OutcomeChange } from '../fleet/intake-round.ts';
import type { Outcome } from '../fleet/outcome.ts';
import type { CohortStore } from './cohort-store.ts';

/** What devices have reported about one rollout. */
export type Outcomes = ReadonlyMap<string, Outcome>;

/** Outcomes of the rollouts that are going on, in memory; of others they are read when somebody asks. */
export class Tallies {
  readonly #store: Pick<CohortStore, 'outcomes'>;
  readonly #byRollout = new Map<string, Map<string, Outcome>>();
  readonly #loading = new Set<string>();

  constructor(store: Pick<CohortStore, 'outcomes'>) {
    this.#store = store;
  }

  /** Begins to follow a rollout. */
  async follow(rolloutId: string): Promise<void> {
    if (this.#byRollout.has(rolloutId)) return;
    const outcomes = new Map<string, Outcome>();
    // Followed first: what comes while the store is read is newer than what is read.
    this.#byRollout.set(rolloutId, outcomes);
    this.#loading.add(rolloutId);
    try {
      for (const [id, outcome] of await this.#store.outcomes(rolloutId)) {
        if (!outcomes.has(id)) outcomes.set(id, outcome);
      }
      this.#loading.delete(rolloutId);
    } catch (error) {
      this.forget(rolloutId);
      throw error;
    }
  }

  forget(rolloutId: string): void {
    this.#loading.delete(rolloutId);
    this.#byRollout.delete(rolloutId);
  }

  apply(changes: readonly OutcomeChange[]): void {
    for (const { rolloutId, deviceId, after } of changes)
      this.#byRollout.get(rolloutId)?.set(deviceId, after);
  }

  /** The same as are stored, where that is known without asking the disk: a device that isn't in it hasn't said anything. */
  complete(rolloutId: string): Outcomes | undefined {
    return this.#loading.has(rolloutId) ? undefined : this.#byRollout.get(rolloutId);
  }

  /** Those that are known without asking the disk. */
  current(rolloutId: string): Outcomes | undefined {
    return this.#byRollout.get(rolloutId);
  }

  async outcomes(rolloutId: string): Promise<Outcomes> {
    return this.#byRollout.get(rolloutId) ?? (await this.#store.outcomes(rolloutId));
  }
}

/** Whether a device has brought this rollout to its good end. */
export function hasCompleted(rollout: Rollout, outcome: Outcome | undefined, booted: number): boolean {
  if (outcome?.attempt === rollout.attempt) return outcome.state === 'completed';
  // It had the release already, and has nothing to do.
  return booted === rollout.release.counter;
}

import type { OutcomeChange } from '../fleet/intake-round.ts';
import type { Outcome } from '../fleet/outcome.ts';
import type { CohortStore } from './cohort-store.ts';

/** What devices have reported about one rollout. */
export type Outcomes = ReadonlyMap<string, Outcome>;

/** Outcomes of the rollouts under way, in memory. Outcomes of others are read on demand. */
export class OutcomeCache {
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
    // Registered before the store is read: an outcome that comes meanwhile is newer than the stored one.
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

  /** The same outcomes as in the store, if all are in memory: a device that isn't among them has reported nothing. */
  complete(rolloutId: string): Outcomes | undefined {
    return this.#loading.has(rolloutId) ? undefined : this.#byRollout.get(rolloutId);
  }

  /** The outcomes in memory; some may be missing while the store is read. */
  current(rolloutId: string): Outcomes | undefined {
    return this.#byRollout.get(rolloutId);
  }

  async outcomes(rolloutId: string): Promise<Outcomes> {
    return this.#byRollout.get(rolloutId) ?? (await this.#store.outcomes(rolloutId));
  }
}

import { SitecastError } from '@sitecast/shared/errors';
import type { CohortChange, CohortStore } from './cohort-store.ts';
import type { RolloutRecord } from './record.ts';

/** The records of all rollouts, in memory and in the store. */
export class RolloutRecords {
  readonly #store: CohortStore;
  readonly #byId = new Map<string, RolloutRecord>();

  private constructor(store: CohortStore) {
    this.#store = store;
  }

  static async open(store: CohortStore): Promise<RolloutRecords> {
    const records = new RolloutRecords(store);
    for (const record of await store.records()) records.#byId.set(record.rollout.id, record);
    return records;
  }

  /** Newest first. */
  list(): RolloutRecord[] {
    return [...this.#byId.values()].sort(
      (one, other) =>
        other.rollout.createdAt.localeCompare(one.rollout.createdAt) ||
        other.rollout.id.localeCompare(one.rollout.id),
    );
  }

  get(id: string): RolloutRecord | undefined {
    return this.#byId.get(id);
  }

  /** @throws SITECAST_ROLLOUT_UNKNOWN (notFound) */
  require(id: string): RolloutRecord {
    const record = this.#byId.get(id);
    if (record) return record;
    throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', `there is no rollout ${id}`, {
      hint: '`sitecast rollout list` shows them.',
    });
  }

  /** Makes a change of records and cohorts durable, then known. */
  async change(change: CohortChange): Promise<void> {
    await this.#store.change(change);
    for (const record of change.records ?? []) this.#byId.set(record.rollout.id, record);
    for (const id of change.forgotten ?? []) this.#byId.delete(id);
  }
}

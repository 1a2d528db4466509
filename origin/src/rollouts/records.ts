import { SitecastError } from '@sitecast/shared/errors';
import { readStored } from '../fleet/registry.ts';
import type { FleetStore, Write } from '../fleet/store.ts';
import { type RolloutRecord, rolloutRecordSchema } from './record.ts';

/** The records of all rollouts, in memory and in the store. */
export class RolloutRecords {
  readonly #store: FleetStore;
  readonly #byId = new Map<string, RolloutRecord>();

  private constructor(store: FleetStore) {
    this.#store = store;
  }

  static async open(store: FleetStore): Promise<RolloutRecords> {
    const records = new RolloutRecords(store);
    for await (const [key, value] of store.entries('rollout'))
      records.#byId.set(key, readStored('rollout', key, rolloutRecordSchema, value));
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

  /** Makes records durable, together with other writes, then known. */
  async remember(
    records: readonly RolloutRecord[],
    { gone = [], besides = [] }: { gone?: readonly RolloutRecord[]; besides?: readonly Write[] } = {},
  ): Promise<void> {
    if (records.length + gone.length + besides.length === 0) return;
    await this.#store.commit([
      ...records.map(record => ({ table: 'rollout' as const, key: record.rollout.id, value: record })),
      ...gone.map(({ rollout }) => ({ table: 'rollout' as const, key: rollout.id, value: undefined })),
      ...besides,
    ]);
    for (const record of records) this.#byId.set(record.rollout.id, record);
    for (const { rollout } of gone) this.#byId.delete(rollout.id);
  }
}

import { isDeepStrictEqual } from 'node:util';
import { SitecastError } from '@sitecast/shared/errors';
import type { Audit } from '../audit/audit.ts';
import type { Cohorts } from './cohorts.ts';
import type { CohortChange, CohortStore } from './cohort-store.ts';
import { ORIGIN } from './controller/effects.ts';
import type { SignedRollouts } from './published.ts';
import { reconciledRecord, recordOfUnknown, type RolloutRecord } from './record.ts';

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

  /** Makes a change of records and cohorts durable, then changes the records in memory. */
  async change(change: CohortChange): Promise<void> {
    await this.#store.change(change);
    for (const record of change.records ?? []) this.#byId.set(record.rollout.id, record);
    for (const id of change.forgotten ?? []) this.#byId.delete(id);
  }
}

export interface ReconcileDeps {
  store: CohortStore;
  audit: Audit;
  records: RolloutRecords;
  signed: SignedRollouts;
  cohorts: Cohorts;
}

type Thawed = NonNullable<CohortChange['thawed']>[number];

/** Brings the records in line with the signed files, wherever a crash interrupted a change. The files decide. */
export async function reconcileRecords(deps: ReconcileDeps): Promise<void> {
  const { records, signed, cohorts } = deps;
  const files = await signed.all();
  const reconciled: RolloutRecord[] = [];
  const thawed: Thawed[] = [];
  const listed = new Set<string>();
  for (const [product, { rollouts }] of files) {
    for (const rollout of rollouts) {
      listed.add(rollout.id);
      const known = records.get(rollout.id);
      const record = known ? reconciledRecord(known, rollout) : recordOfUnknown(product, rollout);
      if (known && isDeepStrictEqual(record, known)) continue;
      reconciled.push(record);
      if (!known?.next) continue;
      // The change was published but not recorded. The store has the stage's new devices, and the cohort in memory doesn't.
      if (isDeepStrictEqual(known.next.rollout, rollout)) cohorts.forgetCohort(rollout.id);
      else thawed.push(...(await undone(deps, known.next, record)));
    }
  }
  // These rollouts were recorded but never published.
  const unpublished = records
    .list()
    .filter(({ rollout, isPruned }) => isPruned !== true && !listed.has(rollout.id))
    .map(({ rollout }) => rollout.id);
  thawed.push(...unpublished.map(rolloutId => ({ rolloutId })));
  if (reconciled.length + unpublished.length + thawed.length > 0)
    await records.change({ records: reconciled, forgotten: unpublished, thawed });
  for (const id of unpublished) cohorts.forget(id);
}

/** Records that an announced change was never published. @returns its stage's cohort, to be deleted */
async function undone(
  { audit }: ReconcileDeps,
  next: NonNullable<RolloutRecord['next']>,
  { rollout: { id }, controller }: RolloutRecord,
): Promise<Thawed[]> {
  const { action = 'rollout', by } = next.change;
  const event = { action: 'rollout.undone', subject: `rollout:${id}`, details: { action, by } };
  await audit.record({ by: ORIGIN, ...event });
  const { stage } = next.controller;
  return stage === controller.stage ? [] : [{ rolloutId: id, stage }];
}

/** Deletes the cohorts of ended rollouts that a crash has left behind. */
export async function sweepCohorts({
  store,
  records,
  cohorts,
}: Pick<ReconcileDeps, 'store' | 'records' | 'cohorts'>): Promise<void> {
  for (const id of await store.frozenRollouts()) {
    if (!cohorts.tracker(id)) await records.change({ thawed: [{ rolloutId: id }] });
  }
}

import { isDeepStrictEqual } from 'node:util';
import type { Audit } from '../audit/audit.ts';
import type { CohortChange, CohortStore } from './cohort-store.ts';
import { ORIGIN } from './controller/effects.ts';
import { mendedBy, unknownRecord } from './mending.ts';
import type { RolloutRecord } from './record.ts';
import type { RolloutRecords } from './records.ts';
import type { SignedRollouts } from './signed.ts';
import type { Standings } from './standings.ts';
import type { Tallies } from './tallies.ts';

type Thawed = NonNullable<CohortChange['thawed']>[number];

export interface Reconciled {
  store: CohortStore;
  audit: Audit;
  records: RolloutRecords;
  signed: SignedRollouts;
  tallies: Tallies;
  standings: Standings;
}

/** Brings the records in line with the signed files, whatever was interrupted: the files decide. */
export async function reconcileRecords(parts: Reconciled): Promise<void> {
  const { records, signed, tallies, standings } = parts;
  const files = await signed.all();
  const mended: RolloutRecord[] = [];
  const thawed: Thawed[] = [];
  const listed = new Set<string>();
  for (const [product, { rollouts }] of files) {
    for (const rollout of rollouts) {
      listed.add(rollout.id);
      const known = records.get(rollout.id);
      const record = known ? mendedBy(known, rollout) : unknownRecord(product, rollout);
      if (known && isDeepStrictEqual(record, known)) continue;
      mended.push(record);
      if (!known?.next) continue;
      // It got there, and was then not written down: whom its stage let in is in the store, and not counted yet.
      if (isDeepStrictEqual(known.next.rollout, rollout)) standings.forget(rollout.id);
      else thawed.push(...(await undone(parts, known.next, record)));
    }
  }
  // Begun and never published.
  const gone = records.list().filter(({ rollout, isPruned }) => isPruned !== true && !listed.has(rollout.id));
  const forgotten = gone.map(({ rollout }) => rollout.id);
  thawed.push(...forgotten.map(rolloutId => ({ rolloutId })));
  if (mended.length + forgotten.length + thawed.length > 0)
    await records.change({ records: mended, forgotten, thawed });
  for (const id of forgotten) {
    tallies.forget(id);
    standings.forget(id);
  }
}

/** A change that was told and then never published. @returns its cohort, which is deleted */
async function undone(
  { audit }: Reconciled,
  next: NonNullable<RolloutRecord['next']>,
  { rollout: { id }, controller }: RolloutRecord,
): Promise<Thawed[]> {
  const { action = 'rollout', by } = next.change;
  const event = { action: 'rollout.undone', subject: `rollout:${id}`, details: { action, by } };
  await audit.record({ by: ORIGIN, ...event });
  const { stage } = next.controller;
  return stage === controller.stage ? [] : [{ rolloutId: id, stage }];
}

/** Deletes the cohorts of rollouts that have ended: a crash may have left them. */
export async function sweepCohorts({ store, records, standings }: Reconciled): Promise<void> {
  for (const id of await store.frozenRollouts()) {
    if (standings.ledger(id)) continue;
    await records.change({ thawed: [{ rolloutId: id }] });
  }
}

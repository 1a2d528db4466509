import { isDeepStrictEqual } from 'node:util';
import type { Audit } from '../audit/audit.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Write } from '../fleet/store.ts';
import { ORIGIN } from './controller/effects.ts';
import { mendedBy, unknownRecord } from './mending.ts';
import type { RolloutRecord } from './record.ts';
import type { RolloutRecords } from './records.ts';
import type { SignedRollouts } from './signed.ts';
import { cohortDeletions, type Standings } from './standings.ts';
import type { Tallies } from './tallies.ts';

export interface Reconciled {
  registry: Registry;
  audit: Audit;
  records: RolloutRecords;
  signed: SignedRollouts;
  tallies: Tallies;
  standings: Standings;
}

/** Brings the records in line with the signed files, whatever was interrupted: the files decide. */
export async function reconcileRecords(parts: Reconciled): Promise<void> {
  const { registry, records, signed, tallies, standings } = parts;
  const files = await signed.all();
  const mended: RolloutRecord[] = [];
  const besides: Write[] = [];
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
      else besides.push(...(await undone(parts, known.next, record)));
    }
  }
  // Begun and never published.
  const gone = records.list().filter(({ rollout, isPruned }) => isPruned !== true && !listed.has(rollout.id));
  for (const { rollout } of gone) besides.push(...(await cohortDeletions(registry, rollout.id)));
  await records.remember(mended, { gone, besides });
  for (const { rollout } of gone) {
    tallies.forget(rollout.id);
    standings.forget(rollout.id);
  }
}

/** A change that was told and then never published. @returns what takes back its cohort */
async function undone(
  { audit, registry }: Reconciled,
  next: NonNullable<RolloutRecord['next']>,
  { rollout: { id }, controller }: RolloutRecord,
): Promise<Write[]> {
  const { action = 'rollout', by } = next.change;
  const event = { action: 'rollout.undone', subject: `rollout:${id}`, details: { action, by } };
  await audit.record({ by: ORIGIN, ...event });
  const { stage } = next.controller;
  return stage === controller.stage ? [] : await cohortDeletions(registry, id, stage);
}

/** Deletes the cohorts of rollouts that have ended: a crash may have left them. */
export async function sweepCohorts({ registry, records, standings }: Reconciled): Promise<void> {
  const ids = new Set<string>();
  for await (const [key] of registry.store.entries('cohort')) ids.add(key.slice(0, key.indexOf('!')));
  for (const id of ids) {
    if (standings.ledger(id)) continue;
    await records.remember([], { besides: await cohortDeletions(registry, id) });
  }
}

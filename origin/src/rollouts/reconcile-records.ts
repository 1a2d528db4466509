import { isDeepStrictEqual } from 'node:util';
import type { RolloutFigures } from '@sitecast/shared/api';
import type { Audit } from '../audit/audit.ts';
import type { CohortChange, CohortStore } from './cohort-store.ts';
import { ORIGIN } from './controller/effects.ts';
import type { SignedRollouts } from './published.ts';
import { figuresOf } from './controller/state.ts';
import { isUnderWay, reconciledRecord, recordOfUnknown, type RolloutRecord, withEnd } from './record.ts';

export interface ReconcileDeps {
  store: CohortStore;
  audit: Audit;
  signed: SignedRollouts;
}

type Thawed = NonNullable<CohortChange['thawed']>[number];

/** Corrects records by the signed files, wherever a crash interrupted a change. The files decide. */
export async function reconcileRecords(deps: ReconcileDeps): Promise<void> {
  const { store, signed } = deps;
  const files = await signed.all();
  const reconciled: RolloutRecord[] = [];
  const thawed: Thawed[] = [];
  const listed = new Set<string>();
  for (const [product, { rollouts }] of files) {
    for (const rollout of rollouts) {
      listed.add(rollout.id);
      const known = store.record(rollout.id);
      const record = known ? reconciledRecord(known, rollout) : recordOfUnknown(product, rollout);
      if (known && isDeepStrictEqual(record, known)) continue;
      reconciled.push(withEnd(record, await figuresBefore(store, known)));
      if (known?.next && !isDeepStrictEqual(known.next.rollout, rollout))
        thawed.push(...(await undone(deps, known.next, record)));
      if (known && !isUnderWay(record)) thawed.push({ rolloutId: rollout.id });
    }
  }
  // These rollouts were recorded but never published.
  const unpublished = store
    .records()
    .filter(({ rollout, isPruned }) => isPruned !== true && !listed.has(rollout.id))
    .map(({ rollout }) => rollout.id);
  thawed.push(...unpublished.map(rolloutId => ({ rolloutId })));
  if (reconciled.length + unpublished.length + thawed.length > 0)
    await store.change({ records: reconciled, forgotten: unpublished, thawed });
}

/** The figures of a rollout's devices according to its stored record, if there is one. */
async function figuresBefore(
  store: CohortStore,
  known: RolloutRecord | undefined,
): Promise<RolloutFigures | undefined> {
  if (!known || !isUnderWay(known)) return known?.figures;
  const stats = await store.stats(known.rollout.id);
  return stats && figuresOf(stats);
}

/** Records that a pending change was never published. @returns its stage's cohort, which should be deleted */
async function undone(
  { audit }: ReconcileDeps,
  next: NonNullable<RolloutRecord['next']>,
  { rollout: { id }, controller }: RolloutRecord,
): Promise<Thawed[]> {
  const { action = 'rollout', by } = next.change;
  const event = { action: 'rollout.undone' as const, subject: `rollout:${id}`, details: { action, by } };
  await audit.record({ by: ORIGIN, ...event });
  const { stage } = next.controller;
  return stage === controller.stage ? [] : [{ rolloutId: id, stage }];
}

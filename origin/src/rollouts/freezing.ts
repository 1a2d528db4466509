import type { Rollout } from '@sitecast/shared/fleet';
import type { Registry } from '../fleet/registry.ts';
import { freeze } from './controller/cohort.ts';
import type { Ledger } from './controller/ledger.ts';
import { reachedBy } from './match.ts';
import type { RolloutRecord } from './record.ts';

/**
 * The membership of a stage that begins now.
 * @param known the rollout as it is signed
 * @param ledger of those that are in already
 * @returns `joined`: ids of those that come in
 */
export function freezeStage(
  { registry, nowMs }: { registry: Registry; nowMs: number },
  { product, controller }: RolloutRecord,
  known: Rollout,
  stage: number,
  ledger: Ledger | undefined,
): { cohort: Rollout['cohort']; joined: string[] } {
  const everybody = { ...known, cohort: { below: null } };
  const candidates = [...reachedBy(everybody, product, registry)].map(({ id }) => id);
  const share = controller.plan.stages[stage]?.basisPoints ?? 0;
  const { cohort, members } = freeze(known.id, candidates, share, known.cohort, nowMs);
  return { cohort, joined: members.filter(id => ledger?.has(id) !== true) };
}

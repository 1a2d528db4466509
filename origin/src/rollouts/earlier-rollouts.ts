import type { CohortStore } from './cohort-store.ts';
import { isUnderWay, type RolloutRecord } from './record.ts';

// A device on which a release failed bars it, also in later rollouts, until one of them has a higher attempt number than the one that failed.

/** Of which release, of which product. */
interface OfRelease {
  product: string;
  counter: number;
}

const recordsOf = (
  store: Pick<CohortStore, 'records'>,
  { product, counter }: OfRelease,
): readonly RolloutRecord[] =>
  store.records().filter(record => record.product === product && record.rollout.release.counter === counter);

/** The attempt number that lets every device try again: above those of all rollouts of the release. */
export function nextAttempt(
  store: Pick<CohortStore, 'records'>,
  { product, rollout, controller }: RolloutRecord,
): number {
  const { counter } = rollout.release;
  const attempts = recordsOf(store, { product, counter }).map(record => record.controller.attempt);
  return Math.max(controller.attempt, ...attempts) + 1;
}

/**
 * On how many devices a release has failed in the last attempt of a rollout; of several rollouts, where it failed most.
 * @throws SITECAST_STATE_DAMAGED
 */
export async function failedWith(
  store: Pick<CohortStore, 'records' | 'recount' | 'stats'>,
  release: OfRelease,
): Promise<number> {
  let most = 0;
  for (const record of recordsOf(store, release)) {
    const stats = isUnderWay(record)
      ? await store.stats(record.rollout.id)
      : (await store.recount(record)).stats;
    most = Math.max(most, stats?.failed ?? 0);
  }
  return most;
}

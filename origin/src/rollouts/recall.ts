import type { RolloutsFile } from '@sitecast/shared/fleet';
import type { RolloutRecords } from './records.ts';

/**
 * What a product's rollouts file may have held, by the records beside it. The hash in the signed metadata tells which it was: as
 * published last, or with a change that was on its way.
 */
export function* recalled(
  product: string,
  records: RolloutRecords,
  revoked: RolloutsFile['revoked'],
): Generator<RolloutsFile> {
  const listed = records
    .list()
    .filter(record => record.product === product && record.isPruned !== true)
    .reverse();
  const before = listed.map(({ rollout }) => rollout);
  const after = listed.map(({ rollout, next }) => next?.rollout ?? rollout);
  // One that had begun to be written down, and hadn't been published.
  for (const rollouts of [before, after, before.slice(0, -1)])
    yield { format: 'sitecast-rollouts-1', product, rollouts, revoked };
}

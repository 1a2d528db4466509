import type { Rollout } from '@sitecast/shared/fleet';
import { z } from 'zod';
import type { Outcome } from '../fleet/outcome.ts';
import type { Status } from '../fleet/status.ts';
import type { Standing } from './controller/ledger.ts';
import { bootedCounter } from './match.ts';

const countSchema = z.int().min(0);

/** Of a rollout that is sent back: counts of devices, with those that got the release as latecomers. */
export const goingBackSchema = z.object({
  /** Those that run the release or are on the way to it, and have not said that they can't go back. */
  left: countSchema,
  /** Of `left`: those outside of the cohort. */
  lateLeft: countSchema,
  /** Those that run the release and can't go back, or came to a bad end on the way back. */
  stuck: countSchema,
  returned: countSchema,
});
export type GoingBack = z.infer<typeof goingBackSchema>;

interface ReturnFacts {
  standing: Standing;
  outcome: Outcome | undefined;
  status: Status | undefined;
}

/** States in which a device that still runs another release is about to run this one. */
const ON_THE_WAY: ReadonlySet<string> = new Set(['installing', 'rebooting', 'confirming']);

/** Where a device stands on the way back; undefined for one that has nothing to go back from. */
export function returnOf(
  { release }: Pick<Rollout, 'release'>,
  { standing, outcome, status }: ReturnFacts,
): 'left' | 'stuck' | 'returned' | undefined {
  const booted = bootedCounter(status);
  const runsIt = booted === release.counter;
  switch (standing) {
    case 'gone':
      return undefined;
    case 'returned':
      return 'returned';
    case 'well':
      return 'left';
    case 'running':
      return runsIt || booted === 0 || ON_THE_WAY.has(outcome?.state ?? '') ? 'left' : undefined;
    case 'waiting':
    case 'pending':
      return runsIt ? 'left' : undefined;
    case 'blocked':
      return runsIt || booted === 0 ? 'stuck' : undefined;
    case 'failed':
      return runsIt ? afterFailure(release, outcome, status) : undefined;
  }
}

/** One that failed falls back by itself. One that failed on the way back stays where it is. */
function afterFailure(
  { counter }: Rollout['release'],
  outcome: Outcome | undefined,
  status: Status | undefined,
): 'left' | 'stuck' {
  if (outcome?.state === 'rolledBack' || outcome?.state === 'blocked') return 'stuck';
  const about = status?.last.release?.counter ?? counter;
  return outcome?.state === 'failed' && about !== counter ? 'stuck' : 'left';
}

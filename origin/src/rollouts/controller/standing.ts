import type { DeviceState } from '@sitecast/shared/fleet';
import { hasCompletedOnce, type Outcome } from '../../fleet/outcome.ts';
import type { Standing } from './ledger.ts';

export interface StandingFacts {
  /** What the device has reported about the rollout. */
  outcome: Outcome | undefined;
  /** Counter of the release that it runs, by its last report; 0 where that's unknown. */
  bootedCounter: number;
  isRevoked: boolean;
}

/** `failed` without a failure: the power went, and it tries once more. */
const STANDING_OF_STATE: Record<DeviceState, Standing> = {
  completed: 'well',
  rolledBack: 'returned',
  blocked: 'blocked',
  waiting: 'waiting',
  clockSuspect: 'waiting',
  idle: 'pending',
  checking: 'pending',
  failed: 'running',
  downloading: 'running',
  verifying: 'running',
  installing: 'running',
  rebooting: 'running',
  confirming: 'running',
};

/** How a device stands in the present attempt at a release. */
export function standingOf(
  { outcome, bootedCounter, isRevoked }: StandingFacts,
  { attempt, counter, isGoingBack }: { attempt: number; counter: number; isGoingBack: boolean },
): Standing {
  const current = outcome?.attempt === attempt ? outcome : undefined;
  // Revoking a device doesn't unmake its failure.
  if (current?.failure) return 'failed';
  if (isRevoked) return 'gone';
  if (!current) return bootedCounter === counter ? 'well' : 'pending';
  // It has shown that the release works. What else it says then, whoever has its key, holds up nobody, but that it failed.
  if (!isGoingBack && hasCompletedOnce(current)) return 'well';
  return STANDING_OF_STATE[current.state];
}

import type { Outcome } from '../../fleet/outcome.ts';
import type { Standing } from './ledger.ts';

export interface StandingFacts {
  /** What the device has reported about the rollout. */
  outcome: Outcome | undefined;
  /** Counter of the release that it runs, by its last report; 0 where that's unknown. */
  bootedCounter: number;
  isRevoked: boolean;
}

/** How a device stands in the present attempt at a release. */
export function standingOf(
  { outcome, bootedCounter, isRevoked }: StandingFacts,
  { attempt, counter }: { attempt: number; counter: number },
): Standing {
  const current = outcome?.attempt === attempt ? outcome : undefined;
  // Revoking a device doesn't unmake its failure.
  if (current?.failure) return 'failed';
  if (isRevoked) return 'gone';
  if (!current) return bootedCounter === counter ? 'well' : 'pending';
  switch (current.state) {
    case 'completed':
      return 'well';
    case 'rolledBack':
      return 'returned';
    case 'blocked':
      return 'blocked';
    case 'waiting':
    case 'clockSuspect':
      return 'waiting';
    case 'idle':
    case 'checking':
      return 'pending';
    case 'failed':
    case 'downloading':
    case 'verifying':
    case 'installing':
    case 'rebooting':
    case 'confirming':
      return 'running';
  }
}

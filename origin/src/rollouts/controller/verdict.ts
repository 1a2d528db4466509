import type { ControllerState, RolloutStats } from './state.ts';

export type Verdict = 'continue' | 'silence' | 'pause' | 'rollBack';

/**
 * What the stats demand. Failures are counted against the whole frozen cohort, not against the devices that have ended, so the order
 * of reports doesn't matter. Acknowledged failures aren't counted again. Silent devices count with the failures towards a pause, but
 * never towards a rollback.
 */
export function verdictOf({ plan, excused }: ControllerState, stats: RolloutStats): Verdict {
  const failed = Math.max(0, stats.failed - excused.failed);
  const silent = Math.max(0, stats.silent - excused.silent);
  const isTooMuch = (count: number): boolean =>
    count > 0 && count * 10_000 > plan.maxFailuresBasisPoints * stats.members;
  if (isTooMuch(failed)) {
    const isProven = failed >= plan.minFailures && (stats.sites <= 1 || stats.failedSites > 1);
    return plan.onFailure === 'rollback' && isProven ? 'rollBack' : 'pause';
  }
  return isTooMuch(failed + silent) ? 'silence' : 'continue';
}

/** No device may still end, and at least one has shown that the release works. */
export function isSettled(stats: RolloutStats): boolean {
  return waitedFor(stats) === 0 && (stats.joined === 0 || stats.joinedSucceeded > 0);
}

/** Devices that may still end. */
function waitedFor({ running, waiting, pending, silent, unreachable }: RolloutStats): number {
  return running + waiting + pending - silent - unreachable;
}

/** Every device of the last stage has succeeded, the latecomers too. */
export function isDone(stats: RolloutStats): boolean {
  return haveAllSucceeded(stats) && stats.lateSucceeded === stats.late;
}

/** Every device of the frozen cohort has succeeded, and there is at least one device. */
export function haveAllSucceeded({ members, succeeded, decommissioned, late }: RolloutStats): boolean {
  return members - decommissioned + late > 0 && succeeded + decommissioned === members;
}

import type { ControllerState, Figures } from './state.ts';

export type Verdict = 'good' | 'silence' | 'pause' | 'rollBack';

/**
 * What the figures say. Failures are counted against the frozen cohort and not against those that have ended, so it
 * doesn't matter in which order reports come; what was acknowledged isn't counted again. Silence counts beside
 * failures, but is never a reason to go back.
 */
export function verdictOf({ plan, excused }: ControllerState, figures: Figures): Verdict {
  const failed = Math.max(0, figures.failed - excused.failed);
  const silent = Math.max(0, figures.silent - excused.silent);
  const isTooMuch = (count: number): boolean =>
    count > 0 && count * 10_000 > plan.maxFailuresBasisPoints * figures.members;
  if (isTooMuch(failed)) {
    const isProven = failed >= plan.minFailures && (figures.sites <= 1 || figures.failedSites > 1);
    return plan.onFailure === 'rollback' && isProven ? 'rollBack' : 'pause';
  }
  return isTooMuch(failed + silent) ? 'silence' : 'good';
}

/** Nobody is waited for any more, and somebody has shown that the release works. */
export function isSettled(figures: Figures): boolean {
  return waitedFor(figures) === 0 && (figures.joined === 0 || figures.wellJoined > 0);
}

/** Members that may still end. */
function waitedFor({ running, waiting, pending, silent, unreachable }: Figures): number {
  return running + waiting + pending - silent - unreachable;
}

/** Every device of the last stage is well, those that came later among them. */
export function isDone(figures: Figures): boolean {
  return areMembersWell(figures) && figures.lateWell === figures.late;
}

/** Every device of the frozen cohort is, and there's one at all. */
export function areMembersWell({ members, well, gone, late }: Figures): boolean {
  return members - gone + late > 0 && well + gone === members;
}

import type { Assignment } from './assignment.ts';
import { type Rollout, rankOf } from './rollouts.ts';

/** Why a device is in a rollout, or isn't: it decides alone, from what's signed. */
export type Eligibility = 'in' | 'noMatch' | 'laterStage' | 'enrolledLater';

/** What of a device decides. */
export interface DeviceFacts {
  assignment: Assignment;
  /** Counter of the release in the booted slot; 0 where it's unknown. */
  bootedCounter: number;
}

/**
 * Does this rollout reach this device, by match and cohort? State, time and latching are the caller's.
 * Canaries are in by name. A device enrolled after the cohort's freeze isn't counted in it, so it waits, until a stage reaches all.
 */
export function eligibilityOf(rollout: Rollout, { assignment, bootedCounter }: DeviceFacts): Eligibility {
  if (!matches(rollout, assignment, bootedCounter)) return 'noMatch';
  const { below, asOf, canaries } = rollout.cohort;
  if (below === null || canaries?.includes(assignment.id) === true) return 'in';
  if (asOf !== undefined && Date.parse(assignment.enrolledAt) > Date.parse(asOf)) return 'enrolledLater';
  return rankOf(rollout.id, assignment.id) < below ? 'in' : 'laterStage';
}

function matches({ match }: Rollout, { hardware, site, tags }: Assignment, bootedCounter: number): boolean {
  if (match.hardware && !(hardware !== undefined && match.hardware.includes(hardware))) return false;
  if (match.sites && !match.sites.includes(site)) return false;
  if (match.fromCounter && (bootedCounter < match.fromCounter.min || bootedCounter > match.fromCounter.max))
    return false;
  return Object.entries(match.tags ?? {}).every(
    ([name, value]) => Object.hasOwn(tags, name) && tags[name] === value,
  );
}

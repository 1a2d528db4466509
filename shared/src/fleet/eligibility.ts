import type { Assignment } from './assignment.ts';
import { type Rollout, rankOf } from './rollouts.ts';

/** Why a device takes part in a rollout, or doesn't. The device decides alone, from signed documents. */
export type Eligibility = 'in' | 'noMatch' | 'laterStage' | 'enrolledLater';

/** The facts about a device that decide. */
export interface DeviceFacts {
  assignment: Assignment;
  /** Counter of the release in the booted slot; 0: unknown. */
  bootedCounter: number;
}

/**
 * Whether a rollout reaches a device, by match and cohort. The caller checks state, time and earlier decisions. Canaries are in by
 * name. A device that enrolled after the cohort was frozen isn't counted in it, so it waits for a stage that reaches all devices.
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

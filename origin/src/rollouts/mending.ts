import { isDeepStrictEqual } from 'node:util';
import type { Rollout } from '@sitecast/shared/fleet';
import { ALL_AT_ONCE, PLAN_DEFAULTS } from './controller/plan.ts';
import { type ControllerState, newControllerState } from './controller/state.ts';
import { type RolloutRecord, withChange } from './record.ts';

export function recordOf(
  product: string,
  rollout: Rollout,
  controller: ControllerState,
  startedBy: string,
): RolloutRecord {
  return {
    product,
    rollout,
    startedBy,
    changes: [{ at: rollout.createdAt, by: startedBy, state: rollout.state, action: 'rollout.start' }],
    controller,
  };
}

/** A record as the signed file bears it out: a change that was on its way has got there, or hasn't. */
export function mendedBy(record: RolloutRecord, rollout: Rollout): RolloutRecord {
  const { next, isPruned: _isPruned, ...rest } = record;
  if (next && isDeepStrictEqual(next.rollout, rollout))
    return withChange({ ...rest, rollout, controller: next.controller }, next.change);
  return { ...rest, rollout, controller: asSigned(rest.controller, rollout) };
}

function asSigned(
  { rollbackTo: _rollbackTo, ...controller }: ControllerState,
  { state: phase, attempt, rollbackTo }: Rollout,
): ControllerState {
  return {
    ...controller,
    phase,
    attempt,
    ...(rollbackTo && { rollbackTo: { counter: rollbackTo.counter, version: rollbackTo.version } }),
  };
}

/** One that the file has and nobody remembers: how it was meant to grow isn't known, so it doesn't. */
export function unknownRecord(product: string, rollout: Rollout): RolloutRecord {
  const isWhole = rollout.cohort.below === null;
  const stages = isWhole ? [ALL_AT_ONCE] : [{ basisPoints: 1, soakMs: PLAN_DEFAULTS.soakMs }, ALL_AT_ONCE];
  const { maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs } = PLAN_DEFAULTS;
  const plan = { stages, maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs };
  const begun = newControllerState(plan, Date.parse(rollout.createdAt));
  return recordOf(product, rollout, asSigned(begun, rollout), 'unknown');
}

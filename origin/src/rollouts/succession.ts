import type { Rollout, RolloutsFile } from '@sitecast/shared/fleet';
import { decide } from './controller/decide.ts';
import type { Figures } from './controller/state.ts';
import type { Decision } from './decisions.ts';
import { asCompleted } from './prepare.ts';
import { type RolloutRecord, withChange } from './record.ts';

/** How a rollout ends that makes way for the next. */
interface Ending {
  rollout: Rollout;
  /** With the change on its way; and once the signed file says so. */
  pending: RolloutRecord;
  after: RolloutRecord;
  decision: Decision;
}

/**
 * Completes a rollout that just soaks, because the next begins.
 * @param by who starts that; @param next its id
 */
export function endingOf(
  record: RolloutRecord,
  figures: Figures,
  { by, next, nowMs }: { by: string; next: string; nowMs: number },
): Ending {
  const { state: controller } = decide(
    record.controller,
    { type: 'operator', act: 'complete', by, figures },
    nowMs,
  );
  const rollout = asCompleted(record.rollout);
  const action = 'rollout.complete';
  const change = { at: new Date(nowMs).toISOString(), by, state: controller.phase, action };
  const { stage, attempt } = controller;
  return {
    rollout,
    pending: { ...record, next: { rollout, controller, change } },
    after: withChange({ ...record, rollout, controller }, change),
    decision: { action, by, details: { stage, attempt, figures, supersededBy: next } },
  };
}

/** A product's rollouts once these have ended and those have made way. */
export function succeeded(
  { rollouts }: RolloutsFile,
  endings: readonly Ending[],
  pruned: readonly Rollout[],
): Rollout[] {
  const ended = new Map(endings.map(({ rollout }) => [rollout.id, rollout]));
  return rollouts.filter(known => !pruned.includes(known)).map(known => ended.get(known.id) ?? known);
}

import type { AuditAction } from '@sitecast/shared/audit';
import { ORIGIN } from '../../audit/audit.ts';
import { type ControllerState, figuresOf, type RolloutStats } from './state.ts';

export { ORIGIN };

export type Effect =
  /** Publish a signed rollout that says this, with the state's `rollbackTo`. With `beginStage` the stage's cohort is frozen and published with it. */
  | { type: 'publish'; phase: ControllerState['phase']; attempt: number; beginStage?: number }
  /** Record and announce what was decided, by whom, and on which stats. */
  | { type: 'decision'; action: AuditAction; by: string; details: Record<string, unknown> }
  /** Evaluate the rollout again at that time, whatever is reported. */
  | { type: 'timer'; atMs: number };

export interface Decided {
  /** The same object if nothing has changed. */
  state: ControllerState;
  effects: Effect[];
}

/** Begins the next stage. No stage can be skipped. */
export function beginStage(state: ControllerState, by: string, stats: RolloutStats, nowMs: number): Decided {
  const { settledAt: _settledAt, hasSoaked: _hasSoaked, ...rest } = state;
  const at = new Date(nowMs).toISOString();
  const next = state.stage + 1;
  return {
    state: {
      ...rest,
      stage: next,
      stageStartedAt: at,
      activeSince: at,
      ...(by === ORIGIN && { hasSoaked: true }),
    },
    effects: [
      { type: 'publish', phase: 'active', attempt: state.attempt, beginStage: next },
      {
        type: 'decision',
        action: 'rollout.stage',
        by,
        details: {
          stage: next,
          basisPoints: state.plan.stages[next]?.basisPoints,
          figures: figuresOf(stats),
        },
      },
    ],
  };
}

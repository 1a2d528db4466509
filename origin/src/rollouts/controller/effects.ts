import { ORIGIN } from '../../audit/audit.ts';
import type { ControllerState, Figures, Phase } from './state.ts';

export { ORIGIN };

export type Effect =
  /** The signed rollout is to say this, and the state's `rollbackTo`. With `beginStage` the stage's membership is frozen, and becomes part of it. */
  | { type: 'publish'; phase: Phase; attempt: number; beginStage?: number }
  /** To be recorded and told: what was decided, by whom, and on which figures. */
  | { type: 'decision'; action: string; by: string; details: Record<string, unknown> }
  /** There's something to decide then, whatever is reported. */
  | { type: 'timer'; atMs: number };

export interface Decided {
  /** The same object where nothing has changed. */
  state: ControllerState;
  effects: Effect[];
}

/** The next one: there's no way to one after that. */
export function beginStage(state: ControllerState, by: string, figures: Figures, nowMs: number): Decided {
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
        details: { stage: next, basisPoints: state.plan.stages[next]?.basisPoints, figures },
      },
    ],
  };
}

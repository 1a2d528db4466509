import { beginStage, type Decided, ORIGIN } from './effects.ts';
import { operate, type OperatorEvent } from './operate.ts';
import { isLastStage } from './plan.ts';
import type { ControllerState, Figures } from './state.ts';
import { isDone, isSettled, verdictOf } from './verdict.ts';

export type ControllerEvent =
  /** Devices have reported: this is where they stand now. */
  | { type: 'reported'; figures: Figures }
  /** Time has passed: deadlines and soaks may have. */
  | { type: 'tick'; figures: Figures }
  | OperatorEvent;

/**
 * The controller: no I/O, no clock, no chance. What it decides depends on the state, the figures and the time alone, so
 * the same again decides nothing more.
 * @throws SITECAST_ROLLOUT_STATE, SITECAST_ROLLOUT_ENDED, SITECAST_ROLLOUT_LAST_STAGE, SITECAST_ACKNOWLEDGE_NEEDED
 * (conflict) for what an operator can't have
 */
export function decide(state: ControllerState, event: ControllerEvent, nowMs: number): Decided {
  if (event.type === 'operator') return operate(state, event, nowMs);
  return judge(state, event.figures, nowMs);
}

function judge(state: ControllerState, figures: Figures, nowMs: number): Decided {
  if (state.phase !== 'active' && state.phase !== 'paused') return { state, effects: [] };
  const verdict = verdictOf(state, figures);
  if (verdict === 'rollBack') return stop(state, 'rollingBack', 'failures', figures, nowMs);
  if (verdict !== 'good') {
    const why = verdict === 'silence' ? 'silence' : 'failures';
    return state.phase === 'active'
      ? stop(state, 'paused', why, figures, nowMs)
      : stillStopped(state, why, figures, nowMs);
  }
  return state.phase === 'active' ? goOn(state, figures, nowMs) : { state, effects: [] };
}

type StopReason = NonNullable<ControllerState['stop']>['why'];

function stop(
  state: ControllerState,
  phase: 'paused' | 'rollingBack',
  why: StopReason,
  figures: Figures,
  nowMs: number,
): Decided {
  const at = new Date(nowMs).toISOString();
  return {
    state: { ...state, phase, stop: { why, by: ORIGIN, at, figures } },
    effects: [
      { type: 'publish', phase, attempt: state.attempt },
      {
        type: 'decision',
        action: phase === 'paused' ? 'rollout.pause' : 'rollout.rollback',
        by: ORIGIN,
        details: { why, stage: state.stage, figures },
      },
    ],
  };
}

/** Paused by an operator or for silence, and now there are failures, too: it can't be resumed unseen. */
function stillStopped(state: ControllerState, why: StopReason, figures: Figures, nowMs: number): Decided {
  const known = state.stop?.why;
  if (known === 'failures' || known === why) return { state, effects: [] };
  const at = new Date(nowMs).toISOString();
  return {
    state: { ...state, stop: { why, by: ORIGIN, at, figures } },
    effects: [
      {
        type: 'decision',
        action: 'rollout.pause',
        by: ORIGIN,
        details: { why, stage: state.stage, figures },
      },
    ],
  };
}

function goOn(state: ControllerState, figures: Figures, nowMs: number): Decided {
  const { plan, stage, attempt } = state;
  if (isLastStage(plan, stage)) {
    if (!isDone(figures)) return { state, effects: [] };
    return {
      state: { ...state, phase: 'completed' },
      effects: [
        { type: 'publish', phase: 'completed', attempt },
        { type: 'decision', action: 'rollout.complete', by: ORIGIN, details: { stage, figures } },
      ],
    };
  }
  if (!isSettled(figures)) {
    const { settledAt, ...unsettled } = state;
    return { state: settledAt === undefined ? state : unsettled, effects: [] };
  }
  const settled =
    state.settledAt === undefined ? { ...state, settledAt: new Date(nowMs).toISOString() } : state;
  // Whoever was in before has soaked already, and nobody else has come in.
  const isSoaked = figures.joined === 0 && settled.hasSoaked === true;
  const soakedMs = Date.parse(settled.settledAt ?? '') + (isSoaked ? 0 : (plan.stages[stage]?.soakMs ?? 0));
  if (nowMs < soakedMs) return { state: settled, effects: [{ type: 'timer', atMs: soakedMs }] };
  return beginStage(settled, ORIGIN, figures, nowMs);
}

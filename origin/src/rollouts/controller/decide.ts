import { beginStage, type Decided, ORIGIN } from './effects.ts';
import { operate, type OperatorEvent } from './operate.ts';
import {
  type ControllerState,
  figuresOf,
  isLastStage,
  type RolloutStats,
  soakMsOf,
  type StopReason,
} from './state.ts';
import { haveAllSucceeded, isDone, isSettled, verdictOf } from './verdict.ts';

export type ControllerEvent =
  /** Devices have reported: these are the stats now. */
  | { type: 'reported'; stats: RolloutStats }
  /** Time has passed: a deadline or a soak may have ended. */
  | { type: 'tick'; stats: RolloutStats }
  | OperatorEvent;

/**
 * The controller: no I/O, no clock, no randomness. The decision depends on the state, the stats and the time alone, so a repeated
 * event decides nothing more.
 * @throws SITECAST_ROLLOUT_STATE, SITECAST_ROLLOUT_ENDED, SITECAST_ROLLOUT_LAST_STAGE, SITECAST_ACKNOWLEDGE_NEEDED
 * (conflict) for an act that the state doesn't allow
 */
export function decide(state: ControllerState, event: ControllerEvent, nowMs: number): Decided {
  if (event.type === 'operator') return operate(state, event, nowMs);
  return judge(state, event.stats, nowMs);
}

function judge(state: ControllerState, stats: RolloutStats, nowMs: number): Decided {
  if (state.phase !== 'active' && state.phase !== 'paused') return { state, effects: [] };
  const verdict = verdictOf(state, stats);
  if (verdict === 'rollBack') return stop(state, 'rollingBack', 'failures', stats, nowMs);
  if (verdict !== 'continue') {
    const why = verdict === 'silence' ? 'silence' : 'failures';
    return state.phase === 'active'
      ? stop(state, 'paused', why, stats, nowMs)
      : stillStopped(state, why, stats, nowMs);
  }
  return state.phase === 'active' ? goOn(state, stats, nowMs) : { state, effects: [] };
}

function stop(
  state: ControllerState,
  phase: 'paused' | 'rollingBack',
  why: StopReason,
  stats: RolloutStats,
  nowMs: number,
): Decided {
  const at = new Date(nowMs).toISOString();
  return {
    state: { ...state, phase, stop: { why, by: ORIGIN, at, figures: figuresOf(stats) } },
    effects: [
      { type: 'publish', phase, attempt: state.attempt },
      {
        type: 'decision',
        action: phase === 'paused' ? 'rollout.pause' : 'rollout.rollback',
        by: ORIGIN,
        details: { why, stage: state.stage, figures: figuresOf(stats) },
      },
    ],
  };
}

/** Paused by an operator or for silence, and now there are failures too: a resume must acknowledge them. */
function stillStopped(state: ControllerState, why: StopReason, stats: RolloutStats, nowMs: number): Decided {
  const known = state.stop?.why;
  if (known === 'failures' || known === why) return { state, effects: [] };
  const at = new Date(nowMs).toISOString();
  return {
    state: { ...state, stop: { why, by: ORIGIN, at, figures: figuresOf(stats) } },
    effects: [
      {
        type: 'decision',
        action: 'rollout.pause',
        by: ORIGIN,
        details: { why, stage: state.stage, figures: figuresOf(stats) },
      },
    ],
  };
}

function goOn(state: ControllerState, stats: RolloutStats, nowMs: number): Decided {
  const isLast = isLastStage(state.plan, state.stage);
  if (!(isLast ? isLastSettled(state, stats) : isSettled(stats))) {
    const { settledAt, ...unsettled } = state;
    return { state: settledAt === undefined ? state : unsettled, effects: [] };
  }
  const settled =
    state.settledAt === undefined ? { ...state, settledAt: new Date(nowMs).toISOString() } : state;
  const soakedMs = soakEndMs(settled, stats) ?? nowMs;
  if (nowMs < soakedMs) return { state: settled, effects: [{ type: 'timer', atMs: soakedMs }] };
  if (!isLast) return beginStage(settled, ORIGIN, stats, nowMs);
  return isDone(stats) ? complete(settled, stats) : { state: settled, effects: [] };
}

/** Devices that come during the soak don't restart it, but the rollout waits for them before it completes. */
function isLastSettled({ settledAt }: ControllerState, stats: RolloutStats): boolean {
  return isDone(stats) || (settledAt !== undefined && haveAllSucceeded(stats));
}

/** When the current stage has soaked; undefined while its devices haven't all succeeded. */
function soakEndMs(
  { plan, stage, settledAt, hasSoaked }: ControllerState,
  { joined }: RolloutStats,
): number | undefined {
  if (settledAt === undefined) return undefined;
  // The devices of the stages before have soaked already, and no device came in with this stage.
  const isSoaked = joined === 0 && hasSoaked === true;
  return Date.parse(settledAt) + (isSoaked ? 0 : soakMsOf(plan, stage));
}

function complete(state: ControllerState, stats: RolloutStats): Decided {
  return {
    state: { ...state, phase: 'completed' },
    effects: [
      { type: 'publish', phase: 'completed', attempt: state.attempt },
      {
        type: 'decision',
        action: 'rollout.complete',
        by: ORIGIN,
        details: { stage: state.stage, figures: figuresOf(stats) },
      },
    ],
  };
}

/** Every device has succeeded, and the rollout only soaks before it completes. */
export function isSoakingLast(state: ControllerState, stats: RolloutStats): boolean {
  const { phase, plan, stage, settledAt } = state;
  return phase === 'active' && isLastStage(plan, stage) && settledAt !== undefined && haveAllSucceeded(stats);
}

import { beginStage, type Decided, ORIGIN } from './effects.ts';
import { operate, type OperatorEvent } from './operate.ts';
import { isLastStage, soakMsOf } from './plan.ts';
import type { ControllerState, Figures } from './state.ts';
import { areMembersWell, isDone, isSettled, verdictOf } from './verdict.ts';

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
  const isLast = isLastStage(state.plan, state.stage);
  if (!(isLast ? isLastSettled(state, figures) : isSettled(figures))) {
    const { settledAt, ...unsettled } = state;
    return { state: settledAt === undefined ? state : unsettled, effects: [] };
  }
  const settled =
    state.settledAt === undefined ? { ...state, settledAt: new Date(nowMs).toISOString() } : state;
  const soakedMs = soakEndMs(settled, figures) ?? nowMs;
  if (nowMs < soakedMs) return { state: settled, effects: [{ type: 'timer', atMs: soakedMs }] };
  if (!isLast) return beginStage(settled, ORIGIN, figures, nowMs);
  return isDone(figures) ? complete(settled, figures) : { state: settled, effects: [] };
}

/** Devices that come while it soaks don't make it soak anew; to be completed it waits for them, too. */
function isLastSettled({ settledAt }: ControllerState, figures: Figures): boolean {
  return isDone(figures) || (settledAt !== undefined && areMembersWell(figures));
}

/** When the current stage has soaked; undefined while its devices aren't well yet. */
function soakEndMs(
  { plan, stage, settledAt, hasSoaked }: ControllerState,
  { joined }: Figures,
): number | undefined {
  if (settledAt === undefined) return undefined;
  // Whoever was in before has soaked already, and nobody else has come in.
  const isSoaked = joined === 0 && hasSoaked === true;
  return Date.parse(settledAt) + (isSoaked ? 0 : soakMsOf(plan, stage));
}

function complete(state: ControllerState, figures: Figures): Decided {
  return {
    state: { ...state, phase: 'completed' },
    effects: [
      { type: 'publish', phase: 'completed', attempt: state.attempt },
      { type: 'decision', action: 'rollout.complete', by: ORIGIN, details: { stage: state.stage, figures } },
    ],
  };
}

/** All has been done, and it just soaks before it's completed. */
export function isSoakingLast(state: ControllerState, figures: Figures): boolean {
  const { phase, plan, stage, settledAt } = state;
  return phase === 'active' && isLastStage(plan, stage) && settledAt !== undefined && areMembersWell(figures);
}

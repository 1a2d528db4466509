import type { RolloutState } from '@sitecast/shared/fleet';
import { OPERATOR_ACTS, type OperatorAct } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { plural } from '@sitecast/shared/text';
import { beginStage, type Decided } from './effects.ts';
import { type ControllerState, figuresOf, isLastStage, type RolloutStats } from './state.ts';
import { verdictOf } from './verdict.ts';

export interface OperatorEvent {
  type: 'operator';
  act: OperatorAct;
  by: string;
  stats: RolloutStats;
  /** Of `resume`: the operator has seen the failures. */
  isAcknowledged?: boolean;
  /** Of `advance` and `retry`: the stage or attempt to reach. Nothing changes if it is reached already. */
  target?: number | undefined;
  /** Of `retry`: the attempt number that it leads to, above the present one. */
  attempt?: number | undefined;
  /** Of `rollback`: the release to go back to; without one each device goes back to the release that it came from, or was told before. */
  rollbackTo?: ControllerState['rollbackTo'] | undefined;
}

/** What an operator asks of a rollout. */
export type OperatorRequest = Pick<OperatorEvent, 'act' | 'by' | 'isAcknowledged' | 'target' | 'rollbackTo'>;

/** The phases from which an act leads on, and the phase that it leads to. In that phase the act does nothing. */
const ALLOWED: Record<OperatorAct, { from: readonly RolloutState[]; to: RolloutState | undefined }> = {
  pause: { from: ['active'], to: 'paused' },
  resume: { from: ['paused'], to: 'active' },
  abort: { from: ['active', 'paused', 'rollingBack', 'completed'], to: 'aborted' },
  // An ended rollout can be rolled back, as long as the signed file lists it. No other act leads on from there.
  rollback: { from: ['active', 'paused', 'rollingBack', 'completed', 'aborted'], to: 'rollingBack' },
  advance: { from: ['active'], to: undefined },
  retry: { from: ['active', 'paused', 'rollingBack'], to: undefined },
  complete: { from: ['active', 'paused'], to: 'completed' },
};

/** The rollout doesn't change by itself any more. */
export const isEnded = (phase: RolloutState): boolean => phase === 'completed' || phase === 'aborted';

/** Decides on an operator's act. A repeated act does nothing. @throws as `decide` says */
export function operate(state: ControllerState, event: OperatorEvent, nowMs: number): Decided {
  const { act, rollbackTo } = event;
  if (isReached(state, event)) return { state, effects: [] };
  if (!ALLOWED[act].from.includes(state.phase)) throw refusal(act, state.phase);
  const decided = change(state, event, nowMs);
  const { stage, attempt } = decided.state;
  const details = {
    stage,
    attempt,
    ...(isEnded(state.phase) && { from: state.phase }),
    ...(rollbackTo && { rollbackTo }),
    figures: figuresOf(event.stats),
  };
  const isRecorded = decided.effects.some(({ type }) => type === 'decision');
  return isRecorded
    ? decided
    : {
        ...decided,
        effects: [...decided.effects, { type: 'decision', action: `rollout.${act}`, by: event.by, details }],
      };
}

function isReached(state: ControllerState, { act, target, rollbackTo }: OperatorEvent): boolean {
  return (
    (state.phase === ALLOWED[act].to && (!rollbackTo || rollbackTo.counter === state.rollbackTo?.counter)) ||
    (act === 'advance' && target !== undefined && state.stage >= target) ||
    (act === 'retry' && target !== undefined && state.attempt >= target)
  );
}

function change(state: ControllerState, event: OperatorEvent, nowMs: number): Decided {
  const { by, stats } = event;
  const at = new Date(nowMs).toISOString();
  const stop = { why: 'operator' as const, by, at, figures: figuresOf(stats) };
  const { stop: _stop, rollbackTo: _rollbackTo, ...unstopped } = state;
  const changes: Record<OperatorAct, () => Decided> = {
    pause: () => published({ ...state, phase: 'paused', stop }),
    rollback: () => {
      const { rollbackTo } = event;
      // A rollout that rolls back already only gets a new goal. The reason why it was stopped stays.
      const why = (state.phase === 'rollingBack' && state.stop) || stop;
      return published({ ...unstopped, phase: 'rollingBack', stop: why, ...(rollbackTo && { rollbackTo }) });
    },
    abort: () => published({ ...state, phase: 'aborted' }),
    complete: () => published({ ...unstopped, phase: 'completed' }),
    resume: () => resume(state, event, at),
    retry: () => {
      const excused = { failed: 0, silent: 0 };
      const attempt = Math.max(state.attempt + 1, event.attempt ?? 0);
      return published({ ...restarted(state, at), attempt, excused });
    },
    advance: () => {
      if (isLastStage(state.plan, state.stage)) throw lastStage();
      return beginStage(state, by, stats, nowMs);
    },
  };
  return changes[event.act]();
}

function resume(
  state: ControllerState,
  { stats, isAcknowledged = false }: OperatorEvent,
  at: string,
): Decided {
  const isStopped = state.stop !== undefined && state.stop.why !== 'operator';
  if (!isAcknowledged && (isStopped || verdictOf(state, stats) !== 'continue'))
    throw acknowledgeNeeded(stats);
  const { failed, silent } = stats;
  return published({ ...restarted(state, at), ...(isAcknowledged && { excused: { failed, silent } }) });
}

/** Active again: the soak starts over, and silence is counted from now on. */
function restarted(state: ControllerState, at: string): ControllerState {
  const {
    stop: _stop,
    settledAt: _settledAt,
    hasSoaked: _hasSoaked,
    rollbackTo: _rollbackTo,
    ...rest
  } = state;
  return { ...rest, phase: 'active', activeSince: at };
}

function published(state: ControllerState): Decided {
  return { state, effects: [{ type: 'publish', phase: state.phase, attempt: state.attempt }] };
}

/** The acts that lead on from a phase. */
export function actsFrom(phase: RolloutState): OperatorAct[] {
  return OPERATOR_ACTS.filter(act => ALLOWED[act].from.includes(phase) && ALLOWED[act].to !== phase);
}

function refusal(act: OperatorAct, phase: RolloutState): SitecastError {
  const others = actsFrom(phase);
  return new SitecastError(
    'conflict',
    isEnded(phase) ? 'SITECAST_ROLLOUT_ENDED' : 'SITECAST_ROLLOUT_STATE',
    `a rollout that is ${phase} can't ${act}: it can ${others.join(', ')}`,
    {
      ...(act === 'retry' &&
        isEnded(phase) && {
          hint: 'Start a new rollout of the release; then `sitecast rollout retry` lets the devices try again on which it failed.',
        }),
      data: { act, state: phase, acts: others },
    },
  );
}

function lastStage(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_LAST_STAGE',
    'the rollout is in its last stage already',
  );
}

function acknowledgeNeeded(stats: RolloutStats): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_ACKNOWLEDGE_NEEDED',
    `${plural(stats.failed, 'device')} failed and ${stats.silent} fell silent: that's why it was stopped`,
    {
      hint: 'Look at `sitecast rollout status`, then resume with --acknowledge.',
      data: { failed: stats.failed, silent: stats.silent },
    },
  );
}

import { OPERATOR_ACTS, type OperatorAct } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { beginStage, type Decided } from './effects.ts';
import { isLastStage } from './plan.ts';
import type { ControllerState, Figures, Phase } from './state.ts';
import { verdictOf } from './verdict.ts';

export interface OperatorEvent {
  type: 'operator';
  act: OperatorAct;
  by: string;
  figures: Figures;
  /** Of `resume`: whoever resumes has seen the failures. */
  isAcknowledged?: boolean;
  /** Of `advance` and `retry`: the stage or attempt that is meant. One that is reached already changes nothing. */
  target?: number | undefined;
  /** Of `rollback`: the release to go back to. Without one it's that which each device came from, or was told before. */
  rollbackTo?: ControllerState['rollbackTo'] | undefined;
}

/** What an operator wants of a rollout that is there. */
export type OperatorWish = Pick<OperatorEvent, 'act' | 'by' | 'isAcknowledged' | 'target' | 'rollbackTo'>;

/** From which phases an act leads on; from the one it leads to it does nothing. */
const ALLOWED: Record<OperatorAct, { from: readonly Phase[]; to: Phase | undefined }> = {
  pause: { from: ['active'], to: 'paused' },
  resume: { from: ['paused'], to: 'active' },
  abort: { from: ['active', 'paused', 'rollingBack', 'completed'], to: 'aborted' },
  // What has ended can be sent back, as long as devices know of it: nothing else leads on from there.
  rollback: { from: ['active', 'paused', 'rollingBack', 'completed', 'aborted'], to: 'rollingBack' },
  advance: { from: ['active'], to: undefined },
  retry: { from: ['active', 'paused', 'rollingBack'], to: undefined },
  complete: { from: ['active', 'paused'], to: 'completed' },
};

/** Nothing comes of it any more by itself. */
export const isEnded = (phase: Phase): boolean => phase === 'completed' || phase === 'aborted';

/** What an operator wants of a rollout. The same again does nothing. @throws as `decide` says */
export function operate(state: ControllerState, event: OperatorEvent, nowMs: number): Decided {
  const { act, rollbackTo } = event;
  if (isThere(state, event)) return { state, effects: [] };
  if (!ALLOWED[act].from.includes(state.phase)) throw refusal(act, state.phase);
  const decided = change(state, event, nowMs);
  const { stage, attempt } = decided.state;
  const details = {
    stage,
    attempt,
    ...(isEnded(state.phase) && { from: state.phase }),
    ...(rollbackTo && { rollbackTo }),
    figures: event.figures,
  };
  const isTold = decided.effects.some(({ type }) => type === 'decision');
  return isTold
    ? decided
    : {
        ...decided,
        effects: [...decided.effects, { type: 'decision', action: `rollout.${act}`, by: event.by, details }],
      };
}

function isThere(state: ControllerState, { act, target, rollbackTo }: OperatorEvent): boolean {
  return (
    (state.phase === ALLOWED[act].to && (!rollbackTo || rollbackTo.counter === state.rollbackTo?.counter)) ||
    (act === 'advance' && target !== undefined && state.stage >= target) ||
    (act === 'retry' && target !== undefined && state.attempt >= target)
  );
}

function change(state: ControllerState, event: OperatorEvent, nowMs: number): Decided {
  const { by, figures } = event;
  const at = new Date(nowMs).toISOString();
  const stop = { why: 'operator' as const, by, at, figures };
  const { stop: _stop, rollbackTo: _rollbackTo, ...unstopped } = state;
  const changes: Record<OperatorAct, () => Decided> = {
    pause: () => published({ ...state, phase: 'paused', stop }),
    rollback: () => {
      const { rollbackTo } = event;
      // Who goes back already is just told where to: what it was stopped for stays.
      const why = (state.phase === 'rollingBack' && state.stop) || stop;
      return published({ ...unstopped, phase: 'rollingBack', stop: why, ...(rollbackTo && { rollbackTo }) });
    },
    abort: () => published({ ...state, phase: 'aborted' }),
    complete: () => published({ ...unstopped, phase: 'completed' }),
    resume: () => resume(state, event, at),
    retry: () => {
      const excused = { failed: 0, silent: 0 };
      return published({ ...restarted(state, at), attempt: state.attempt + 1, excused });
    },
    advance: () => {
      if (isLastStage(state.plan, state.stage)) throw lastStage();
      return beginStage(state, by, figures, nowMs);
    },
  };
  return changes[event.act]();
}

function resume(
  state: ControllerState,
  { figures, isAcknowledged = false }: OperatorEvent,
  at: string,
): Decided {
  const isStopped = state.stop !== undefined && state.stop.why !== 'operator';
  if (!isAcknowledged && (isStopped || verdictOf(state, figures) !== 'good'))
    throw acknowledgeNeeded(figures);
  const { failed, silent } = figures;
  return published({ ...restarted(state, at), ...(isAcknowledged && { excused: { failed, silent } }) });
}

/** Active again; it soaks anew, and silence is counted from now on. */
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

/** What may lead on from a phase. */
export function actsFrom(phase: Phase): OperatorAct[] {
  return OPERATOR_ACTS.filter(act => ALLOWED[act].from.includes(phase) && ALLOWED[act].to !== phase);
}

function refusal(act: OperatorAct, phase: Phase): SitecastError {
  const others = actsFrom(phase);
  return new SitecastError(
    'conflict',
    isEnded(phase) ? 'SITECAST_ROLLOUT_ENDED' : 'SITECAST_ROLLOUT_STATE',
    `a rollout that is ${phase} can't ${act}: it can ${others.join(', ')}`,
    { data: { act, state: phase, acts: others } },
  );
}

function lastStage(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_ROLLOUT_LAST_STAGE',
    'the rollout is in its last stage already',
  );
}

function acknowledgeNeeded(figures: Figures): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_ACKNOWLEDGE_NEEDED',
    `${figures.failed} devices failed and ${figures.silent} fell silent: that's why it was stopped`,
    {
      hint: 'Look at `sitecast rollout status`, then resume with --acknowledge.',
      data: { failed: figures.failed, silent: figures.silent },
    },
  );
}

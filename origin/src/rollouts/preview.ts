import type { OperatorAct, RollbackProgress, RolloutPreview } from '@sitecast/shared/api';
import type { Figures } from './controller/state.ts';
import type { RolloutRecord } from './record.ts';
import type { ReturnTarget } from './return-target.ts';

const NOTHING: Pick<Figures, 'failed' | 'silent' | 'well' | 'running' | 'waiting' | 'pending' | 'blocked'> = {
  failed: 0,
  silent: 0,
  well: 0,
  running: 0,
  waiting: 0,
  pending: 0,
  blocked: 0,
};

/** How they stand whom an act may touch. */
interface Touchable {
  figures: Figures | undefined;
  /** Undefined where the rollout has ended: `figures` has everybody then. */
  back: RollbackProgress | undefined;
}

/**
 * @param joining how many would come in with the next stage
 * @param goal of a rollback to a chosen release
 */
export function previewOf(
  { rollout, controller }: RolloutRecord,
  act: OperatorAct,
  { figures, back }: Touchable,
  joining: () => number,
  goal?: ReturnTarget,
): RolloutPreview {
  const { failed, silent, well, running, waiting, pending, blocked } = figures ?? NOTHING;
  const open = running + waiting + pending;
  // Those that came outside of the cohort go back as well.
  const having = well + running + (back?.lateLeft ?? 0);
  const isGoingBack = rollout.state === 'rollingBack';
  const touched: Record<
    OperatorAct,
    () => Pick<RolloutPreview, 'touches' | 'what' | 'target' | 'rollbackTo'>
  > = {
    pause: () => ({ touches: open, what: 'those that have not ended it yet wait' }),
    resume: () => ({ touches: open, what: 'those that have not ended it yet go on' }),
    complete: () => ({ touches: open, what: 'those that have not ended it yet get it as latecomers do' }),
    abort: () =>
      isGoingBack
        ? { touches: back?.left ?? having, what: 'those that are not back yet stay with the release' }
        : { touches: open, what: 'those that have not activated it yet leave it alone' },
    rollback: () => ({
      // Those that couldn't go back to where they came from may be able to go there.
      touches:
        (isGoingBack ? (back?.left ?? having) : having) +
        (goal && isGoingBack ? (back?.stuck ?? blocked) : 0),
      what: `those that have it, or are on the way, go back${goal ? goalText(goal) : ''}`,
      ...(goal && { rollbackTo: goal.release }),
    }),
    advance: () => ({
      touches: joining(),
      what: 'the next stage lets them in',
      target: controller.stage + 1,
    }),
    retry: () => ({
      touches: failed + blocked + open,
      what: 'those that do not run the release try it (again)',
      target: controller.attempt + 1,
    }),
  };
  return { act, failed, silent, ...touched[act]() };
}

function goalText({ release, unfit }: ReturnTarget): string {
  const but = unfit.length === 0 ? '' : `, but for hardware ${unfit.join(', ')}, which it isn't made for`;
  return ` to ${release.version}${but}`;
}

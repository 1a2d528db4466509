import type { RolloutStatus } from './fleet-api.ts';
import { plural } from './output.ts';
import { goingBackOf, isLastStage, soakMsOf } from './rollout-ending.ts';

/** What a rollout waits for, and what an operator can do about it: where neither goes without saying. */
export function describeNext(status: RolloutStatus): string[] {
  const { id, state, stage, plan, settledAt, acts } = status;
  if (state === 'rollingBack') return goingBack(status);
  const hasEnded = state === 'completed' || state === 'aborted';
  // Not one that is too old, or that a newer one has superseded.
  if (hasEnded && acts.includes('rollback'))
    return [`\`sitecast rollout rollback ${id}\` leads the devices that have it back`];
  if (state !== 'active' || !isLastStage(status)) return [];
  if (settledAt === undefined || soakMsOf(plan, stage) === 0) return [];
  return [
    `next: it's completed when it has soaked; until then late failures stop it, and the next rollout may be started; \`sitecast rollout rollback ${id}\` leads its devices back, then and later`,
  ];
}

function goingBack(status: RolloutStatus): string[] {
  const { id, rollbackTo } = status;
  const { left = 0, lateLeft = 0, stuck = 0 } = goingBackOf(status) ?? {};
  const late = lateLeft > 0 ? `, ${lateLeft} of them ${lateLeft === 1 ? 'a latecomer' : 'latecomers'}` : '';
  const waits =
    left > 0
      ? `${plural(left, 'device')} still to go back${late}`
      : 'no device known that is still to go back';
  const other = rollbackTo ? 'another release' : 'a release';
  const lines = [
    `next: ${waits}; those that come later with it are sent back, too, and no other rollout to the same can begin, until \`sitecast rollout abort ${id}\``,
  ];
  if (stuck > 0)
    lines.push(
      `${plural(stuck, 'device')} could not: \`sitecast rollout rollback ${id} --to VERSION\` leads to ${other} of your choice`,
    );
  return lines;
}

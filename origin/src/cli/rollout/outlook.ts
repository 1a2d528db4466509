import { plural } from '@sitecast/shared/text';
import type { Figures, RolloutStatus } from '../origin/fleet-api.ts';

/** Why watching ends: the awaited state is reached, or an operator must act first. */
export interface Ending {
  isGood: boolean;
  text: string;
  hint?: string;
}

/**
 * Whether watching ends. An operator's pause doesn't end it, because the operator is expected to resume.
 * @param untilStage number of the awaited stage, from 1; undefined: the whole rollout
 */
export function endingOf(status: RolloutStatus, untilStage?: number): Ending | undefined {
  const { id, state, stop } = status;
  if (state === 'completed') return { isGood: true, text: `rollout ${id} is completed` };
  if (state === 'aborted')
    return { isGood: false, text: `rollout ${id} was aborted in ${stageText(status)}` };
  if (state === 'rollingBack') return backAgain(status);
  if (state === 'paused') {
    if (!stop || stop.why === 'operator') return undefined;
    return {
      isGood: false,
      text: `rollout ${id} is paused in ${stageText(status)} (${stop.why}), and waits for you`,
      hint: `\`sitecast rollout status ${id}\` tells why; then resume --acknowledge, retry, rollback or abort.`,
    };
  }
  return stageEnding(status, untilStage) ?? stuck(status);
}

export const stageText = ({ stage, plan }: Pick<RolloutStatus, 'stage' | 'plan'>): string =>
  `stage ${stage + 1} of ${plan.stages.length}`;

const isLastStage = ({ stage, plan }: Pick<RolloutStatus, 'stage' | 'plan'>): boolean =>
  stage === plan.stages.length - 1;

/** How long a stage soaks. An origin of 0.1.0 sends a soak time for the last stage too, but ignores it. */
export function soakMsOf(plan: RolloutStatus['plan'], stage: number): number {
  const isUnused = isLastStage({ stage, plan }) && !plan.lastStageSoaks;
  return isUnused ? 0 : (plan.stages[stage]?.soakMs ?? 0);
}

/** How many devices have rolled back and how many still will. An origin of 0.1.0 counts the cohort alone, without the waiting devices. */
function goingBackOf({ back, figures }: Pick<RolloutStatus, 'back' | 'figures'>): RolloutStatus['back'] {
  if (back || !figures) return back;
  const { well, running, blocked, returned } = figures;
  return { left: well + running, lateLeft: 0, stuck: blocked, returned };
}

/** The end of watching a rollback: no device is still rolling back. The rollback itself ends with an operator's `abort`. */
function backAgain(status: RolloutStatus): Ending | undefined {
  const { id } = status;
  const back = goingBackOf(status);
  if (!back || back.left > 0) return undefined;
  const stuck = back.stuck > 0 ? `; ${back.stuck} could not` : '';
  return {
    isGood: false,
    text: `rollout ${id} was sent back: ${back.returned} of its devices went back${stuck}`,
    hint: `Devices that come later with the release are sent back, too, until \`sitecast rollout abort ${id}\`.`,
  };
}

function stageEnding(status: RolloutStatus, untilStage: number | undefined): Ending | undefined {
  const { id, stage, settledAt, plan } = status;
  if (untilStage === undefined) return undefined;
  const isOver = stage + 1 > untilStage || (stage + 1 === untilStage && settledAt !== undefined);
  if (!isOver) return undefined;
  return {
    isGood: true,
    text: `stage ${untilStage} of ${plan.stages.length} of rollout ${id} is over; the rollout goes on`,
  };
}

/** The rollout is active, but the outcomes of its devices keep it from going on. The origin may be about to pause it or send it back. */
function stuck(status: RolloutStatus): Ending | undefined {
  const { id, figures, deciding = false } = status;
  if (!figures || openOf(figures) > 0 || deciding) return undefined;
  const isLast = isLastStage(status);
  const { failed, blocked, returned, joined, wellJoined } = figures;
  const isStuck = isLast ? failed + blocked + returned > 0 : joined > 0 && wellJoined === 0;
  if (!isStuck) return undefined;
  const acts = isLast ? '`retry`, `complete` if that is good enough' : '`retry`, `advance`';
  return {
    isGood: false,
    text: `rollout ${id} does not go on by itself in ${stageText(status)}: ${failed} failed, ${blocked} blocked, ${returned} went back`,
    hint: `\`sitecast device show ID\` tells why one failed. Then \`sitecast rollout\` ${acts}, or \`abort\`.`,
  };
}

/** The number of devices without an outcome yet. */
const openOf = ({ running, waiting, pending }: Figures): number => running + waiting + pending;

/** What a rollout waits for and what an operator can do about it, where that isn't obvious. */
export function describeNext(status: RolloutStatus): string[] {
  const { id, state, stage, plan, settledAt, acts } = status;
  if (state === 'rollingBack') return goingBack(status);
  const hasEnded = state === 'completed' || state === 'aborted';
  // A rollout that is too old, or that a newer one has superseded, can't be rolled back.
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

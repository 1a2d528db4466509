import type { Figures, RolloutStatus } from './fleet-api.ts';

/** Why nothing more is to be watched: what was asked for has come about, or somebody has to act first. */
export interface Ending {
  isGood: boolean;
  text: string;
  hint?: string;
}

/**
 * Whether a rollout goes on by itself. An operator's pause is waited through: an operator is at it.
 * @param untilStage number of the stage, from 1, that is waited for; the whole rollout without
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

export const isLastStage = ({ stage, plan }: Pick<RolloutStatus, 'stage' | 'plan'>): boolean =>
  stage === plan.stages.length - 1;

/** How long a stage soaks. An origin of 0.1.0 has a duration for the last one, too, and doesn't use it. */
export function soakMsOf(plan: RolloutStatus['plan'], stage: number): number {
  const isUnused = isLastStage({ stage, plan }) && !plan.lastStageSoaks;
  return isUnused ? 0 : (plan.stages[stage]?.soakMs ?? 0);
}

/** Of one that rolls back: where its devices are on the way. An origin of 0.1.0 tells the cohort alone, without those that wait. */
export function goingBackOf({
  back,
  figures,
}: Pick<RolloutStatus, 'back' | 'figures'>): RolloutStatus['back'] {
  if (back || !figures) return back;
  const { well, running, blocked, returned } = figures;
  return { left: well + running, lateLeft: 0, stuck: blocked, returned };
}

/** While it rolls back: when nobody is on the way any more. It ends when an operator says `abort`. */
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

/** Active, and every device has ended otherwise than it takes to go on. */
function stuck(status: RolloutStatus): Ending | undefined {
  const { id, figures } = status;
  if (!figures || openOf(figures) > 0) return undefined;
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

/** Devices that may still end. */
const openOf = ({ running, waiting, pending }: Figures): number => running + waiting + pending;

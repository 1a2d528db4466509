import type { Report } from '@sitecast/shared/fleet';
import type { BootState, RememberedBoot, SlotName } from '../ports.ts';
import type { AgentState, SlotRecord, Update } from '../state/agent-state.ts';
import { trialIn } from '../state/rebuild.ts';

/** What a start of the agent means for an update that is being activated. */
export type BootVerdict =
  /** The boot loader wasn't told yet, or the power failed before it had stored that. */
  | 'notTold'
  /** The boot that was asked for hasn't happened. It is asked for again. */
  | 'askAgain'
  /** The slot runs for the first time. */
  | 'firstBoot'
  /** The agent has restarted within the slot's first boot. */
  | 'sameBoot'
  /** The power failed during the slot's trial. It is tried once more. */
  | 'powerLoss'
  /** The machine has booted, and the loader has started the other slot without having tried this one. */
  | 'neverTried'
  /** The loader has given the slot up. */
  | 'bootCountExhausted'
  /** The trial had succeeded when the agent ended. The boot loader may not know that yet. */
  | 'confirmed'
  /** The slot was given up and the other one runs. */
  | 'fellBack';

/** Judges by what was noted before the boot and what the boot loader says now. Pure. */
export function bootVerdict(
  update: Pick<Update, 'phase' | 'target' | 'bootId' | 'tries'>,
  boot: BootState,
): BootVerdict {
  const isSameBoot = update.bootId === boot.bootId;
  const isOnTarget = boot.booted === update.target;
  if (update.phase === 'fallingBack') return isOnTarget ? 'askAgain' : 'fellBack';
  if (isOnTarget) return verdictOnTarget(update.phase, isSameBoot);
  switch (update.phase) {
    case 'downloading':
    case 'verified':
    case 'activating':
      return 'notTold';
    case 'rebooting':
      if (isSameBoot) return 'askAgain';
      return isUntried(update, boot) ? 'neverTried' : 'bootCountExhausted';
    default:
      return 'bootCountExhausted';
  }
}

/** Whether the loader has counted no start of the slot, although it was told to give it some. */
function isUntried(
  { target, tries }: Pick<Update, 'target' | 'tries'>,
  { trial }: Pick<BootState, 'trial'>,
): boolean {
  return tries !== undefined && trial?.slot === target && trial.triesLeft >= tries;
}

function verdictOnTarget(phase: Update['phase'], isSameBoot: boolean): BootVerdict {
  switch (phase) {
    case 'activating':
      return 'firstBoot';
    case 'rebooting':
      return isSameBoot ? 'askAgain' : 'firstBoot';
    case 'confirming':
      return isSameBoot ? 'sameBoot' : 'powerLoss';
    case 'confirmed':
      return 'confirmed';
    default:
      return 'notTold';
  }
}

/** What it means which slot runs, while the boot loader has been told nothing of an update. The expected slot is the one that ran last. */
export type SlotVerdict =
  /** The expected slot runs, or an update's own verdict covers this boot. */
  | 'expected'
  /** The loader has left the expected slot for the other one, which is good. */
  | 'left'
  /** The other slot isn't known to be good, or the loader was told to start it only once. The expected one is good, and is to run again. */
  | 'goBack'
  /** The running slot isn't known to be good, and there is no better one. */
  | 'stay';

/** How often the machine is booted back into the expected slot, until the slot counts as one that doesn't start. */
const MAX_RETURNS = 2;
/** Phases of an update of which the boot loader knows nothing yet. */
const UNTOLD_PHASES: ReadonlySet<Update['phase']> = new Set(['downloading', 'verified']);

/** Pure. A slot that isn't known to be good is never taken for the one to keep, whatever the boot loader says. */
export function slotVerdict(
  { booted: expected, slots, update, returns }: Pick<AgentState, 'booted' | 'slots' | 'update' | 'returns'>,
  { booted, next, bootId }: BootState,
): SlotVerdict {
  const isCovered = update !== null && !UNTOLD_PHASES.has(update.phase);
  if (expected === undefined || expected === booted || isCovered) return 'expected';
  const isGood = slots[booted].isConfirmed === true && isWhole(slots[booted]);
  // What has run counts as good until it is found to be bad.
  if (slots[expected].state === 'bad') return isGood ? 'left' : 'stay';
  const isInVain = returns !== undefined && returns.count >= MAX_RETURNS && returns.bootId !== bootId;
  if (isGood) return next === booted || isInVain ? 'left' : 'goBack';
  return isInVain ? 'stay' : 'goBack';
}

const isWhole = ({ state }: SlotRecord): boolean => state === 'verified' || state === 'altered';

/** Phases of a trial: from telling the boot loader to try the slot, until it is told that the slot is good, or given up. */
const TRIAL_PHASES: ReadonlySet<Update['phase']> = new Set([
  'activating',
  'rebooting',
  'confirming',
  'confirmed',
]);

/**
 * What the agent knows of the boot without asking the boot control. Pure.
 * @param isLost whether the state was restored from an old copy. The update in it may be long over, so the newest report counts instead
 */
export function rememberedBoot(
  { booted, update }: Pick<AgentState, 'booted' | 'update'>,
  isLost: boolean,
  newest: Report | undefined,
): RememberedBoot {
  if (isLost || booted === undefined) {
    const onTrial = newest && trialIn(newest);
    return { slots: distinct([newest?.booted?.slot, booted, onTrial]), onTrial };
  }
  if (!update || !TRIAL_PHASES.has(update.phase)) return { slots: [booted], onTrial: undefined };
  const { target, phase } = update;
  return { slots: phase === 'confirmed' ? [target, booted] : [booted, target], onTrial: target };
}

function distinct(slots: readonly (SlotName | undefined)[]): SlotName[] {
  return [...new Set(slots.filter(slot => slot !== undefined))];
}

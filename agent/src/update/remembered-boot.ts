import type { Report } from '@sitecast/shared/fleet';
import type { RememberedBoot, SlotName } from '../ports.ts';
import type { AgentState, Update } from '../state/agent-state.ts';
import { trialIn } from '../state/rebuild.ts';

/** From when the boot loader is being told to try the slot, until it is told that the slot is good, or given up. */
const TRIAL_PHASES: ReadonlySet<Update['phase']> = new Set([
  'activating',
  'rebooting',
  'confirming',
  'confirmed',
]);

/**
 * Pure: what the agent knows of the boot by itself.
 * @param isLost whether `memory` is but an old copy: what it says of an update may be long over, so the newest report counts
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

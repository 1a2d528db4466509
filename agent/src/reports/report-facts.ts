import { RECIPE_FORMAT } from '@sitecast/shared/delta';
import {
  DELTA_INVENTORY,
  deltaAbilityText,
  type ReportEvent,
  SITE_WAY_INVENTORY,
} from '@sitecast/shared/fleet';
import type { SlotName, WindowApplier } from '../ports.ts';
import type { RunSettings } from '../settings.ts';
import type { AgentState } from '../state/agent-state.ts';
import type { StateFile } from '../state/state-file.ts';
import type { StatusBoard } from '../state/status.ts';
import type { Trust } from '../upstream/trust.ts';
import type { StateChangeLogger } from './state-change-logger.ts';

/** What this device can do with deltas, for its reports: the origin makes them for what the fleet can use. */
export function deltaInventory(
  { deltas, maxBytes }: Pick<RunSettings, 'deltas' | 'maxBytes'>,
  { encoders }: Pick<WindowApplier, 'encoders'>,
): Record<string, string | boolean> {
  if (deltas === 'off') return {};
  const ability = { recipeFormats: [RECIPE_FORMAT], encoders, isSignedOnly: deltas === 'signed-only' };
  return {
    [DELTA_INVENTORY]: deltaAbilityText(ability),
    ...(maxBytes === undefined && { [SITE_WAY_INVENTORY]: true }),
  };
}

/** What each report says of the device besides its state. */
export function reportFacts({
  trust,
  stateFile,
  status,
  deltas,
}: {
  trust: Pick<Trust, 'timestampVersion'>;
  stateFile: Pick<StateFile, 'current'>;
  status: Pick<StatusBoard, 'current'>;
  deltas: Record<string, string | boolean>;
}): Pick<ReportEvent, 'timestampVersion' | 'booted' | 'inventory'> {
  const { booted, product, hardware } = status.current;
  const { slots, update } = stateFile.current;
  const release = booted && slots[booted].release;
  return {
    timestampVersion: trust.timestampVersion,
    inventory: { product, hardware, ...deltas },
    ...(booted && {
      booted: {
        slot: booted,
        ...(release && { release }),
        ...(release && !isProved(booted, slots[booted], update) && { isConfirmed: false }),
      },
    }),
  };
}

/** Whether the running slot has passed its trial, and wasn't given up since. */
function isProved(
  booted: SlotName,
  { isConfirmed, state }: AgentState['slots'][SlotName],
  update: AgentState['update'],
): boolean {
  if (update?.target === booted) return update.phase === 'confirmed';
  return isConfirmed === true && state !== 'bad';
}

/** Shows at once whether reports can be recorded: while an image is fetched, too, which may take hours. */
export function storageNotes(
  stateChanges: Pick<StateChangeLogger, 'storage'>,
  status: Pick<StatusBoard, 'set'>,
): (problem: string | undefined) => void {
  return problem => {
    stateChanges.storage(problem);
    status.set({ storageProblem: problem });
  };
}

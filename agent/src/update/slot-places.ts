import { isDeepStrictEqual } from 'node:util';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { placeIn, type SlotPlace } from '../state/agent-state.ts';
import { SLOT_NAMES, type SlotName } from '../ports.ts';
import type { AgentParts } from './parts.ts';

type Parts = Pick<AgentParts, 'slots' | 'stateFile'>;

/**
 * Finds where a slot lies, and remembers it: so one that goes missing later isn't taken for one that is yet to be made.
 * @throws SITECAST_SLOT_MISSING, and what else `Slot.locate` throws
 */
export async function locateSlot({ slots, stateFile }: Parts, name: SlotName): Promise<SlotPlace> {
  const known = placeIn(stateFile.current, name, slots[name].path);
  const place = await slots[name].locate(known);
  if (!isDeepStrictEqual(place, stateFile.current.slotPlaces?.[name]))
    await stateFile.change(({ slotPlaces }) => ({ slotPlaces: { ...slotPlaces, [name]: place } }));
  return place;
}

/** At a start. What is missing then is waited for once it's wanted. */
export async function locateSlots(parts: Parts & Pick<AgentParts, 'log'>): Promise<void> {
  for (const name of SLOT_NAMES) {
    try {
      await locateSlot(parts, name);
    } catch (error) {
      // Where the agent's own disk is full it's remembered later.
      if (!(error instanceof SitecastError) && !isSystemError(error)) throw error;
      parts.log('warn', error.message, { code: error.code });
    }
  }
}

import { ClassicLevel } from 'classic-level';
import { hasCode, inUse, openingError, type Owner } from './errors.ts';
import type { KeyRange } from './store.ts';

export type Database = ClassicLevel<string, unknown>;

/** @throws SITECAST_DATA_IN_USE, SITECAST_NO_SPACE, SITECAST_STATE_UNREADABLE, SITECAST_STATE_DAMAGED */
export async function openLevel(path: string, owner: Owner): Promise<Database> {
  const database: Database = new ClassicLevel(path, { valueEncoding: 'json' });
  try {
    await database.open();
    return database;
  } catch (error) {
    throw openingError(error, owner);
  }
}

/**
 * Asks for the lock of a database and changes nothing in it: opening one in earnest deletes files that it finds no use for.
 * @throws SITECAST_DATA_IN_USE where another process has it
 */
export async function demandUnlocked(path: string, owner: Owner): Promise<void> {
  // It's refused whether there is one or not; before that comes the lock.
  const database = new ClassicLevel(path, { createIfMissing: false, errorIfExists: true });
  try {
    await database.open();
  } catch (error) {
    if (hasCode(error, 'LEVEL_LOCKED')) throw inUse(owner, error);
  }
}

export const iteratorRange = ({ from, below, isReversed = false, limit }: KeyRange) => ({
  gte: from,
  lt: below,
  reverse: isReversed,
  ...(limit !== undefined && { limit }),
});

import { statfs } from 'node:fs/promises';
import { ClassicLevel } from 'classic-level';
import { syncDirectory } from '../durable/index.ts';
import { hasCode, inUse, noRoomToOpen, openingError, type Owner } from './errors.ts';
import { openingBytes } from './files-check.ts';
import type { KeyRange } from './store.ts';

export type Database = ClassicLevel<string, unknown>;

/**
 * Opens a database, or makes one. When it returns, a power cut leaves a database that can be opened.
 * @throws SITECAST_DATA_IN_USE, SITECAST_NO_SPACE, SITECAST_STATE_UNREADABLE, SITECAST_STATE_DAMAGED
 */
export async function openLevel(path: string, owner: Owner): Promise<Database> {
  const database: Database = new ClassicLevel(path, { valueEncoding: 'json' });
  try {
    await database.open();
    // LevelDB doesn't: the name of its newest manifest may be lost otherwise, with the log that is written from now on.
    await syncDirectory(path);
    return database;
  } catch (error) {
    if (database.status === 'open') await database.close();
    const told = openingError(error, owner);
    if (told.code !== 'SITECAST_NO_SPACE') throw told;
    const room = { path, neededBytes: await openingBytes(path), freeBytes: await freeBytesAt(path) };
    throw noRoomToOpen(owner, room, error);
  }
}

/** Bytes that are free on the file system of a path for a process that isn't root. */
export async function freeBytesAt(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

/**
 * Asks for the lock of a database and changes nothing in it: opening one in earnest deletes files that it finds no use for.
 * @throws SITECAST_DATA_IN_USE where another process has it
 */
export async function demandUnlocked(path: string, owner: Owner): Promise<void> {
  // The opening is refused whether there is a database or not; the lock is asked for before that.
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

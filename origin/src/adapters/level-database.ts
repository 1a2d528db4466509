import { SitecastError } from '@sitecast/shared/errors';
import { Level } from 'level';

/** The database of a data directory: tokens, registry, reports, rollouts, each in sublevels of its own. */
export type Database = Level<string, unknown>;

/**
 * Opens the database, which also is the lock that keeps a second process off the data directory.
 * @param path the database's directory; created if it isn't there
 * @param dataDirectory for the message
 * @throws SITECAST_DATA_IN_USE (conflict) where another process has it open
 */
export async function openDatabase(path: string, dataDirectory: string): Promise<Database> {
  const database = new Level<string, unknown>(path, { valueEncoding: 'json' });
  try {
    await database.open();
  } catch (error) {
    if (!isLocked(error)) throw error;
    throw new SitecastError(
      'conflict',
      'SITECAST_DATA_IN_USE',
      `another process is using the data directory ${dataDirectory}`,
      {
        hint: 'One origin owns a data directory: stop the other one, or give another --data.',
        cause: error,
      },
    );
  }
  return database;
}

function isLocked(error: unknown): boolean {
  return (
    error instanceof Error &&
    error.cause instanceof Error &&
    'code' in error.cause &&
    error.cause.code === 'LEVEL_LOCKED'
  );
}

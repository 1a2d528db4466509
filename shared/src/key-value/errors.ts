import { diskFull } from '../durable/index.ts';
import { bottomOf, SitecastError } from '../errors.ts';

/** The owner of a database, for messages. */
export interface Owner {
  /** As in `origin`. */
  name: string;
  /** The directory that is given as `--data`. */
  dataDirectory: string;
  /** What an operator has to do about a database that is damaged or has lost something; a sentence. */
  cure: string;
}

/** LevelDB reports most errors only in words: those of the system. */
const FULL = /no space left on device|quota exceeded/i;
const NOT_ALLOWED = /permission denied|operation not permitted|read-only file system|too many open files/i;

/** @returns our error for one with which the database failed to open */
export function openingError(error: unknown, owner: Owner): SitecastError {
  if (error instanceof SitecastError) return error;
  if (hasCode(error, 'LEVEL_LOCKED')) return inUse(owner, error);
  const said = bottomOf(error);
  if (FULL.test(said)) return noSpace(owner, error);
  if (NOT_ALLOWED.test(said)) {
    return new SitecastError(
      'failed',
      'SITECAST_STATE_UNREADABLE',
      `the database in ${owner.dataDirectory} can't be opened: ${said}`,
      {
        hint: 'Everything below --data must belong to the user under whom this runs.',
        cause: error,
      },
    );
  }
  return damaged(owner, said, {}, error);
}

/** @returns our error for a write that failed */
export function writingError(error: unknown, owner: Owner): SitecastError {
  if (error instanceof SitecastError) return error;
  const said = bottomOf(error);
  if (FULL.test(said)) return noSpace(owner, error);
  return new SitecastError(
    'unreachable',
    'SITECAST_STATE_UNWRITABLE',
    `the ${owner.name}'s database can't be written: ${said}`,
    {
      hint: 'Look for a failing disk. It is tried again by itself; until then nothing is taken.',
      cause: error,
    },
  );
}

/** @returns our error for a read that failed */
export function readingError(error: unknown, owner: Owner): unknown {
  if (
    error instanceof SitecastError ||
    !hasCode(error, 'LEVEL_CORRUPTION', 'LEVEL_DECODE_ERROR', 'LEVEL_IO_ERROR')
  )
    return error;
  return damaged(owner, bottomOf(error), {}, error);
}

export function inUse({ name, dataDirectory }: Owner, cause?: unknown): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_DATA_IN_USE',
    `another process is using the data directory ${dataDirectory}`,
    { hint: `One ${name} owns a data directory: stop the other one, or give another --data.`, cause },
  );
}

const noSpace = ({ name, dataDirectory }: Owner, cause?: unknown): SitecastError =>
  diskFull(name, dataDirectory, { cause });

/** A database whose logs must become a table before it can be opened, on a disk without room for that. */
export function noRoomToOpen(
  { name, dataDirectory }: Owner,
  { path, neededBytes, freeBytes }: { path: string; neededBytes: number; freeBytes: number },
  cause: unknown,
): SitecastError {
  const needed = Math.ceil(neededBytes / 2 ** 20);
  const free = Math.floor(freeBytes / 2 ** 20);
  return new SitecastError(
    'noSpace',
    'SITECAST_NO_SPACE',
    `the disk of the ${name} is full: opening the database takes about ${needed} MiB in ${path}, and ${free} MiB are free there`,
    {
      hint: `Make room on the file system of ${dataDirectory}, then start it again: what was acknowledged is there.`,
      data: { path, neededBytes, freeBytes },
      cause,
    },
  );
}

export function damaged(
  { dataDirectory, cure }: Owner,
  what: string,
  data: Record<string, unknown> = {},
  cause?: unknown,
): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_STATE_DAMAGED',
    `the database in ${dataDirectory} is damaged: ${what}`,
    { hint: cure, data, cause },
  );
}

export function lost(
  { dataDirectory, cure }: Owner,
  what: string,
  data: Record<string, unknown>,
): SitecastError {
  return new SitecastError(
    'failed',
    'SITECAST_STATE_LOST',
    `the database in ${dataDirectory} has lost what it had: ${what}`,
    { hint: cure, data },
  );
}

/** Whether the database's handle was closed while something read from it. */
export const isClosed = (error: unknown): boolean =>
  hasCode(error, 'LEVEL_DATABASE_NOT_OPEN', 'LEVEL_ITERATOR_NOT_OPEN');

export function hasCode(error: unknown, ...codes: string[]): boolean {
  return (
    error instanceof Error &&
    (('code' in error && codes.includes(String(error.code))) || hasCode(error.cause, ...codes))
  );
}

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { makeDirectory } from '@sitecast/shared/durable';
import { isSystemError, type SitecastError } from '@sitecast/shared/errors';
import {
  type LevelStore,
  lostError,
  openInSpiteOfLoss,
  openLevelStore,
  type OpenOptions,
  type Owner,
  repairLevel,
} from '@sitecast/shared/key-value';
import type { Leadership } from '../../leadership.ts';
import { errorFields, type Log } from '../../log.ts';
import { TIMESTAMP } from '../disk/layout.ts';
import { isEmpty } from './tables.ts';

/** What is known just now, in counts by name: the database's witness tells of it, should the database lose it. */
export type Known = () => Record<string, number>;

/** Counts for the witness, which is there before the stores whose rows are counted. */
export class KnownCounts {
  readonly #counts = new Map<string, () => number>();

  add(name: string, count: () => number): void {
    this.#counts.set(name, count);
  }

  readonly read: Known = () =>
    Object.fromEntries(Array.from(this.#counts, ([name, count]) => [name, count()]));
}

/** The lock of the database is that of the data directory: the process that has it publishes. */
export function leadershipOf(store: LevelStore): Leadership {
  return {
    get isHeld() {
      return !store.closing.aborted;
    },
    async release() {
      if (!store.closing.aborted) await store.close();
    },
  };
}

const STATE = 'state';

/**
 * Opens the database of a data directory, first of all: it is the lock on the directory, too.
 * @throws SITECAST_STATE_LOST where it's empty beside a published repository; and what `openLevelStore` throws
 */
export async function openDatabase(directory: string, known: Known, log: Log): Promise<LevelStore> {
  await makeDirectory(directory);
  await makeDirectory(join(directory, STATE), 0o700);
  const options = optionsFor(directory, known);
  const store = await openLevelStore({
    ...options,
    onTrouble: error => log.error(errorFields(error), 'the database takes nothing'),
    onMended: () => log.info({}, 'the database was opened anew, and takes what comes'),
  });
  if (!(await isPublished(directory)) || !(await isEmpty(store))) return store;
  await store.close();
  throw emptied(directory);
}

/** The database is empty, or lacks what was in it from the first start on. */
export function emptied(directory: string): SitecastError {
  const what = 'it holds nothing of the fleet, and a repository is published beside it';
  return lostError(ownerOf(directory), { what, missing: 0, known: undefined });
}

/** A database that was made readable for a recovery. */
export interface MendedDatabase {
  store: LevelStore;
  /** What it had lost, in words; undefined where it was whole. */
  lost: string | undefined;
  /** Files of which a part, or all, could not be read; and how many values could not be decoded. */
  damagedFiles: string[];
  undecodable: number;
  /** Where the database was put, if it was entirely unreadable. */
  putAside: string | undefined;
}

/**
 * Opens the database of a data directory even where it has lost something, and makes it readable first where it has to.
 * @throws SITECAST_DATA_IN_USE, SITECAST_NO_SPACE, SITECAST_STATE_UNREADABLE
 */
export async function mendDatabase(directory: string, known: Known): Promise<MendedDatabase> {
  const options = optionsFor(directory, known);
  await makeDirectory(options.path, 0o700);
  const { damaged: damagedFiles, undecodable, putAside } = await repairLevel(options.path, options.owner);
  const { store, loss } = await openInSpiteOfLoss(options);
  const isGone = !loss && (await isPublished(directory)) && (await isEmpty(store));
  const lost = loss
    ? lostError(options.owner, loss).message
    : isGone
      ? emptied(directory).message
      : undefined;
  return { store, lost, damagedFiles, undecodable, putAside };
}

/** Whether the directory holds an origin's data. */
export async function hasData(directory: string): Promise<boolean> {
  return (await isThere(join(directory, STATE))) || (await isPublished(directory));
}

export function isPublished(directory: string): Promise<boolean> {
  return isThere(join(directory, TIMESTAMP));
}

function optionsFor(directory: string, known: Known): OpenOptions {
  const path = join(directory, STATE);
  return { path, witnessPath: `${path}.witness`, owner: ownerOf(directory), known };
}

function ownerOf(dataDirectory: string): Owner {
  const cure =
    'Look for a failing disk. Bring the whole data directory back from a backup; or go on with what is left: ' +
    `sitecast-origin recover --data ${dataDirectory} --from GATEWAY`;
  return { name: 'origin', dataDirectory, cure };
}

async function isThere(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'ENOTDIR')) return false;
    throw error;
  }
}

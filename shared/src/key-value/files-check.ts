import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readFileBounded } from '../durable/index.ts';
import { isSystemError, SitecastError } from '../errors.ts';
import { liveTables } from './manifest.ts';
import { checkTable, type TableDamage } from './table-check.ts';

const TABLE = /\.(?:ldb|sst)$/;
const LOG = /\.log$/;
const MANIFEST = /^MANIFEST-\d+$/;
const MAX_CURRENT_BYTES = 64;
/** The manifest of a database of 10 GiB has some hundred kilobytes; it grows until the database is opened. */
const MAX_MANIFEST_BYTES = 64 * 1024 * 1024;
/** LevelDB's tables have 2 MiB; one has more only where one commit was larger. */
const MAX_TABLE_BYTES = 1024 * 1024 * 1024;
/** How fast tables are checked while the database is in use. */
const UNHURRIED_BYTES_PER_S = 32 * 1024 * 1024;

/** The files of a LevelDB directory. */
export interface FoundFiles {
  hasCurrent: boolean;
  /** Newest first. */
  tables: Table[];
  logs: Table[];
}

interface Table {
  name: string;
  lengthBytes: number;
}

export interface DamagedTable extends TableDamage {
  name: string;
}

export async function listFiles(path: string): Promise<FoundFiles> {
  const found: FoundFiles = { hasCurrent: false, tables: [], logs: [] };
  for (const name of (await namesIn(path)).sort().reverse()) {
    const lengthBytes = await lengthOf(join(path, name));
    if (lengthBytes === undefined) continue;
    if (name === 'CURRENT') found.hasCurrent = true;
    else if (TABLE.test(name)) found.tables.push({ name, lengthBytes });
    else if (LOG.test(name)) found.logs.push({ name, lengthBytes });
  }
  return found;
}

/**
 * Tells the tables of a database from those that a killed process had begun to write, or not yet deleted: these aren't needed, and may
 * be incomplete.
 * @returns undefined where its manifest can't be read
 */
export async function sortTables(
  path: string,
  { tables }: FoundFiles,
): Promise<{ live: Table[]; others: Table[] } | undefined> {
  const numbers = await readManifest(path);
  if (!numbers) return undefined;
  const isLive = ({ name }: Table): boolean => numbers.has(Number.parseInt(name, 10));
  return { live: tables.filter(isLive), others: tables.filter(table => !isLive(table)) };
}

/** Opening needs room for the content of the logs, as a table, and for this much more. */
const OPENING_BYTES = 1024 * 1024;

/** How much room opening a database takes, about. */
export async function openingBytes(path: string): Promise<number> {
  const { logs } = await listFiles(path);
  return logs.reduce((sum, { lengthBytes }) => sum + lengthBytes, OPENING_BYTES);
}

async function readManifest(path: string): Promise<Set<number> | undefined> {
  try {
    const name = (await readFileBounded(join(path, 'CURRENT'), MAX_CURRENT_BYTES)).toString().trim();
    if (!MANIFEST.test(name)) return undefined;
    return liveTables(await readFileBounded(join(path, name), MAX_MANIFEST_BYTES));
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'EIO') || error instanceof SitecastError) return undefined;
    throw error;
  }
}

/**
 * Checks tables, the newest first, up to so many bytes.
 * @returns the damaged ones, and the names of those that were not checked
 */
export async function checkTables(
  path: string,
  tables: readonly Table[],
  maxBytes: number,
): Promise<{ damaged: DamagedTable[]; unchecked: string[] }> {
  const damaged: DamagedTable[] = [];
  const unchecked: string[] = [];
  let leftBytes = maxBytes;
  for (const { name, lengthBytes } of tables) {
    leftBytes -= lengthBytes;
    if (leftBytes < 0) unchecked.push(name);
    else {
      const damage = await checkFile(path, name);
      if (damage) damaged.push(damage);
    }
  }
  return { damaged, unchecked };
}

/** Checks one table after the other, slowly. @returns the first damaged one */
export async function checkUnhurried(
  path: string,
  names: readonly string[],
  signal: AbortSignal,
): Promise<DamagedTable | undefined> {
  for (const name of names) {
    if (signal.aborted) return undefined;
    const damage = await checkFile(path, name);
    if (damage) return damage;
    const lengthBytes = (await lengthOf(join(path, name))) ?? 0;
    await sleep((lengthBytes / UNHURRIED_BYTES_PER_S) * 1000, undefined, { ref: false });
  }
  return undefined;
}

async function checkFile(path: string, name: string): Promise<DamagedTable | undefined> {
  try {
    const damage = checkTable(await readFileBounded(join(path, name), MAX_TABLE_BYTES));
    return damage && { name, ...damage };
  } catch (error) {
    // A compaction has deleted it meanwhile.
    if (isSystemError(error, 'ENOENT')) return undefined;
    if (error instanceof SitecastError) return undefined;
    if (isSystemError(error, 'EIO'))
      return { name, trailers: [], unreadable: 'the disk does not give it back' };
    throw error;
  }
}

async function namesIn(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return [];
    throw error;
  }
}

/** Length of a regular file; undefined where there is none. */
async function lengthOf(path: string): Promise<number | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : undefined;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Overwrites pieces of a file, durably. */
export async function overwrite(
  path: string,
  pieces: readonly { at: number; bytes: Buffer }[],
): Promise<void> {
  const file = await open(path, 'r+');
  try {
    for (const { at, bytes } of pieces) await file.write(bytes, 0, bytes.length, at);
    await file.sync();
  } finally {
    await file.close();
  }
}

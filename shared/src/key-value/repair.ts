import { mkdir, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ClassicLevel } from 'classic-level';
import { isSystemError, SitecastError } from '../errors.ts';
import type { Owner } from './errors.ts';
import {
  checkTables,
  type DamagedTable,
  type FoundFiles,
  listFiles,
  overwrite,
  sortTables,
} from './files-check.ts';
import { demandUnlocked, openLevel } from './level.ts';
import { damagedPieces } from './log-check.ts';

/** An unknown compression type: LevelDB takes a block with it for damaged, and leaves the block out. */
const NO_COMPRESSION_TYPE = 0xff;
const MAX_ASIDE = 1000;

/** What was done to make a database readable. */
export interface Repaired {
  /** Files of which a part, or all, could not be read. */
  damaged: string[];
  /** Keys whose values were no JSON; they are deleted. */
  undecodable: number;
  /** Where an entirely unreadable database was put; a new one begins in its place. */
  putAside: string | undefined;
}

/** Changes of one write. */
const SWEPT_AT_ONCE = 1000;

/**
 * Makes a database readable again, without its damaged parts. LevelDB's own repair goes through all tables and logs, but ignores checksums:
 * so blocks with wrong checksums are marked first.
 * @throws SITECAST_DATA_IN_USE, SITECAST_NO_SPACE, SITECAST_STATE_UNREADABLE
 */
export async function repairLevel(path: string, owner: Owner): Promise<Repaired> {
  await demandUnlocked(path, owner);
  const files = await listFiles(path);
  const sorted = await sortTables(path, files);
  const { damaged: tables } = await checkTables(path, sorted?.live ?? files.tables, Number.POSITIVE_INFINITY);
  const isWhole = tables.length === 0 && (await canBeOpened(path, owner, files));
  // LevelDB's repair would take these files for tables of the database, and bring back what was deleted since.
  if (!isWhole) for (const { name } of sorted?.others ?? []) await moveAway(path, name);
  const damaged = isWhole ? [] : await rebuild(path, files, tables);
  const found = isWhole ? files : await listFiles(path);
  // Without any file the database begins anew.
  if (!found.hasCurrent && found.tables.length + found.logs.length === 0 && damaged.length === 0)
    return { damaged, undecodable: 0, putAside: undefined };
  if (!(await canBeOpened(path, owner, found)))
    return { damaged, undecodable: 0, putAside: await putAside(path) };
  return { damaged, undecodable: await sweepUndecodable(path, owner), putAside: undefined };
}

/** @returns names of files that held something damaged */
async function rebuild(path: string, files: FoundFiles, tables: readonly DamagedTable[]): Promise<string[]> {
  for (const table of tables) await markDamage(path, table);
  const logs = await cleanLogs(path, files);
  // The next opening shows whether the repair succeeded.
  await ClassicLevel.repair(path).catch(() => undefined);
  return [...tables.map(({ name }) => name), ...logs];
}

/** The directory to which LevelDB's repair moves what it can't use. */
async function moveAway(path: string, name: string): Promise<void> {
  await mkdir(join(path, 'lost'), { recursive: true });
  await rename(join(path, name), join(path, 'lost', name));
}

/** Deletes values that are no JSON: where a damaged block was compacted before it was checked, its checksum is right. */
async function sweepUndecodable(path: string, owner: Owner): Promise<number> {
  const database = await openLevel(path, owner);
  let count = 0;
  let keys: string[] = [];
  const remove = async (): Promise<void> => {
    await database.batch(
      keys.map(key => ({ type: 'del' as const, key })),
      { sync: true },
    );
    count += keys.length;
    keys = [];
  };
  for await (const [key, text] of database.iterator<string, string>({ valueEncoding: 'utf8' })) {
    if (!isJson(text)) keys.push(key);
    if (keys.length >= SWEPT_AT_ONCE) await remove();
  }
  await remove();
  await database.close();
  return count;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Moves a database aside. @returns where it lies now */
async function putAside(path: string): Promise<string> {
  for (let count = 1; count < MAX_ASIDE; count += 1) {
    const aside = `${path}.damaged-${count}`;
    if (await isThere(aside)) continue;
    await rename(path, aside);
    return aside;
  }
  throw new SitecastError('failed', 'SITECAST_STATE_DAMAGED', `${path} was put aside too often`, {
    hint: `Look for a failing disk, and delete ${path}.damaged-1 and those after it.`,
  });
}

async function canBeOpened(
  path: string,
  owner: Owner,
  { hasCurrent, tables, logs }: FoundFiles,
): Promise<boolean> {
  // LevelDB would take the directory for a new database, and delete its tables.
  if (!hasCurrent && tables.length + logs.length > 0) return false;
  try {
    await (await openLevel(path, owner)).close();
    return true;
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_STATE_DAMAGED') return false;
    throw error;
  }
}

async function markDamage(path: string, { name, trailers }: DamagedTable): Promise<void> {
  const bytes = Buffer.from([NO_COMPRESSION_TYPE]);
  const pieces = trailers.map(at => ({ at, bytes }));
  if (pieces.length > 0) await overwrite(join(path, name), pieces);
}

/** @returns names of those that held something damaged */
async function cleanLogs(path: string, { logs }: FoundFiles): Promise<string[]> {
  const damaged: string[] = [];
  for (const { name } of logs) {
    const pieces = damagedPieces(await readFile(join(path, name)));
    if (pieces.length === 0) continue;
    damaged.push(name);
    // LevelDB skips zeros.
    const zeros = pieces.map(({ start, end }) => ({ at: start, bytes: Buffer.alloc(end - start) }));
    await overwrite(join(path, name), zeros);
  }
  return damaged;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return false;
    throw error;
  }
}

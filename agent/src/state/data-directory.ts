import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { removePartials, setAside } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import type { Log } from '../ports.ts';

/** Directories of the agent. They contain only files. */
const DIRECTORIES: ReadonlySet<string> = new Set(['trust', 'documents', 'patches']);
/**
 * Files that are replaced as a whole. Of files with a copy, only the copy is listed: the code that reads such a file sets aside what is in
 * its place.
 */
const FILES: ReadonlySet<string> = new Set([
  'control.sock',
  'status.json',
  'spending.json',
  'slot-a.caibx',
  'slot-b.caibx',
  'reports.jsonl',
  'reports.jsonl.told',
  'reports.jsonl.unreadable',
  'reports-forgotten.json',
  'peers.json',
  ...['state.json', 'boot.json', 'identity.key'].map(name => `${name}.copy`),
]);
/**
 * Other files that are written aside and renamed. `lock` is none of them: a second agent that starts writes it before it learns that it may
 * not.
 */
const OTHER_FILES: ReadonlySet<string> = new Set([
  'state.json',
  'boot.json',
  'identity.key',
  'gateways.json',
]);

/**
 * Sets aside directories in the place of the agent's files, and files in the place of its directories: neither can replace the other, so
 * nothing could be stored there. A file of another kind, such as a pipe, counts as damaged and is replaced. Nothing else in the data
 * directory is touched, as slots and mount points may be there. Files that a killed agent had begun to write are deleted.
 */
export async function clearDataDirectory(directory: string, log: Log): Promise<void> {
  for (const entry of await entriesOf(directory)) {
    const isWrong = DIRECTORIES.has(entry.name)
      ? !entry.isDirectory() && !entry.isSymbolicLink()
      : FILES.has(entry.name) && entry.isDirectory();
    if (isWrong) await clear(join(directory, entry.name), log);
  }
  for (const name of DIRECTORIES) {
    for (const entry of await entriesOf(join(directory, name)))
      if (entry.isDirectory()) await clear(join(directory, name, entry.name), log);
  }
  await removeLeft(directory, name => FILES.has(name) || OTHER_FILES.has(name));
  for (const name of DIRECTORIES) await removeLeft(join(directory, name));
}

async function removeLeft(directory: string, isOwn?: (name: string) => boolean): Promise<void> {
  try {
    await removePartials(directory, isOwn);
  } catch (error) {
    // A medium that fails, or can't be written: they only take room.
    if (!isSystemError(error)) throw error;
  }
}

async function clear(path: string, log: Log): Promise<void> {
  log('warn', `${path} was nothing of this agent's, and is now ${await setAside(path)}`);
}

async function entriesOf(directory: string): Promise<Dirent[]> {
  try {
    return await readdir(directory, { withFileTypes: true });
  } catch (error) {
    // Not created yet, or a medium that fails: the code that needs a file there reports it.
    if (isSystemError(error)) return [];
    throw error;
  }
}

import type { Dirent } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setAside } from '@sitecast/shared/durable';
import { isSystemError } from '@sitecast/shared/errors';
import type { Log } from '../ports.ts';

/** Directories of the agent; nothing but files lies in them. */
const DIRECTORIES: ReadonlySet<string> = new Set(['trust', 'documents']);
/** Files that are replaced as a whole. Those that are kept twice set aside by themselves what is in their place. */
const FILES: ReadonlySet<string> = new Set([
  'control.sock',
  'status.json',
  'slot-a.caibx',
  'slot-b.caibx',
  'reports.jsonl',
  'reports.jsonl.told',
  'reports.jsonl.unreadable',
  'reports-forgotten.json',
  ...['state.json', 'boot.json', 'identity.key'].map(name => `${name}.copy`),
]);

/**
 * Sets aside what can't be the agent's where its files and directories are to lie: a directory can't be replaced by a file, nor the
 * other way round, and nothing could be kept there. What is a file of another kind (a pipe, say) is damaged, and is replaced.
 * Whatever else lies in the data directory isn't touched: slots and mount points may.
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
}

async function clear(path: string, log: Log): Promise<void> {
  log('warn', `${path} was nothing of this agent's, and is now ${await setAside(path)}`);
}

async function entriesOf(directory: string): Promise<Dirent[]> {
  try {
    return await readdir(directory, { withFileTypes: true });
  } catch (error) {
    // Not begun yet, or a medium that fails: whoever needs a file there says so.
    if (isSystemError(error)) return [];
    throw error;
  }
}

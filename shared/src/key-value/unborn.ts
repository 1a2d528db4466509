import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileBounded, removeDurably } from '../durable/index.ts';
import { isSystemError } from '../errors.ts';

const FIRST_MANIFEST = 'MANIFEST-000001';
const TABLE = /\.(?:ldb|sst)$/;
const LOG = /\.log$/;
/** A database's files besides its lock and its notes for people; CURRENT not. */
const OWN = /^(?:MANIFEST-\d+|\d+\.(?:log|dbtmp))$/;
const MAX_CURRENT_BYTES = 64;
/** The first one has 50 bytes; a log without a commit has none. */
const MAX_EMPTY_BYTES = 64 * 1024;

/**
 * Removes what a power cut leaves of a database that was just being made: LevelDB doesn't sync its first manifest, nor the directory after
 * CURRENT was renamed, so CURRENT can name a manifest without content. Nothing was committed by then: `openLevel` returns after the
 * directory is synced. Whatever has a table, or a byte in a log or in its manifest, stays as it is.
 */
export async function removeUnborn(path: string): Promise<void> {
  const names: string[] = await readdir(path).catch((error: unknown) => {
    if (isSystemError(error, 'ENOENT')) return [];
    throw error;
  });
  if (!names.includes('CURRENT') || names.some(name => TABLE.test(name))) return;
  const current = await readFileBounded(join(path, 'CURRENT'), MAX_CURRENT_BYTES).catch(() => undefined);
  if (current?.toString('latin1') !== `${FIRST_MANIFEST}\n`) return;
  for (const name of [FIRST_MANIFEST, ...names.filter(name => LOG.test(name))])
    if (!(await holdsNothing(join(path, name)))) return;
  // CURRENT last: without it files that are left would be damage.
  for (const name of [...names.filter(name => OWN.test(name)), 'CURRENT'])
    await removeDurably(join(path, name));
}

/** Of a file whose bytes never reached the disk the length may be there, with zeros. */
async function holdsNothing(path: string): Promise<boolean> {
  try {
    return (await readFileBounded(path, MAX_EMPTY_BYTES)).every(byte => byte === 0);
  } catch (error) {
    return isSystemError(error, 'ENOENT');
  }
}

import { lstat } from 'node:fs/promises';
import { createFileDurably } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';

/**
 * Checks the path of a new file before anything else is done.
 * @throws SITECAST_FILE_EXISTS (conflict)
 */
export async function requireAbsent(path: string): Promise<void> {
  try {
    await lstat(path);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return;
    throw error;
  }
  throw fileExists(path);
}

/** @throws SITECAST_FILE_EXISTS; the existing file is unchanged */
export async function createNewFile(path: string, text: string, mode: number): Promise<void> {
  try {
    await createFileDurably(path, text, mode);
  } catch (error) {
    throw isSystemError(error, 'EEXIST') ? fileExists(path) : error;
  }
}

export function fileExists(path: string, what = ''): SitecastError {
  return new SitecastError('conflict', 'SITECAST_FILE_EXISTS', `${path} is already there${what}`, {
    hint: 'nothing was written: give another name, or move that file away',
    data: { path },
  });
}

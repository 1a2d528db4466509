import { diskFull } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Files } from './files.ts';

/**
 * A full disk is for operators to cure, and no defect: it gets a code of its own. Other errors stay as they are.
 * @param directory on the disk
 */
export function translated(error: unknown, directory: string): unknown {
  return isSystemError(error, 'ENOSPC', 'EDQUOT') ? diskFull('origin', directory, { cause: error }) : error;
}

export function stagingFull(limit: string): SitecastError {
  return new SitecastError(
    'noSpace',
    'SITECAST_STAGING_FULL',
    `uploads that no release refers to yet have reached the limit of ${limit}`,
    { hint: 'Publish what was uploaded, or start the origin with a higher --max-staged-bytes.' },
  );
}

/** Bad sectors, or something else than the file that was written. */
export function isUnreadable(error: unknown): boolean {
  if (error instanceof SitecastError)
    return error.code === 'SITECAST_FILE_TOO_LARGE' || error.code === 'SITECAST_NOT_A_FILE';
  return isSystemError(error, 'EIO', 'EISDIR');
}

/** As `Files.read`. A file that can't be read back counts as lost. */
export async function readOrUndefined(
  files: Pick<Files, 'read'>,
  path: string,
  maxBytes: number,
): Promise<Buffer | undefined> {
  try {
    return await files.read(path, maxBytes);
  } catch (error) {
    if (isUnreadable(error)) return undefined;
    throw error;
  }
}

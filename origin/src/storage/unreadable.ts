import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Files } from './files.ts';

/** Bad sectors, or something else than the file that was written. */
export function isUnreadable(error: unknown): boolean {
  if (error instanceof SitecastError)
    return error.code === 'SITECAST_FILE_TOO_LARGE' || error.code === 'SITECAST_NOT_A_FILE';
  return isSystemError(error, 'EIO', 'EISDIR');
}

/** As `Files.read`; what can't be read back counts as lost. */
export async function readOrUndefined(
  files: Files,
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

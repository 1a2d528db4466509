import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isSystemError, systemCodeOf } from '../errors.ts';
import { formatBytes } from '../text/index.ts';

/**
 * The system's ENOSPC or EDQUOT, with what was to be written, how much room that takes, how much is free, and where. `isSystemError`
 * knows it by the system's code.
 */
export class FullDiskError extends Error {
  override readonly name = 'FullDiskError';
  readonly code: string;
  readonly errno: number | undefined;
  readonly syscall: string;
  readonly path: string;
  readonly neededBytes: number;
  /** Undefined where the system doesn't say. */
  readonly freeBytes: number | undefined;

  constructor(
    cause: NodeJS.ErrnoException,
    {
      path,
      neededBytes,
      freeBytes,
      why,
    }: { path: string; neededBytes: number; freeBytes?: number; why: string },
  ) {
    super(`no room for ${path}: it takes ${formatBytes(neededBytes)}, and ${why} (${systemCodeOf(cause)})`, {
      cause,
    });
    this.code = systemCodeOf(cause);
    this.errno = cause.errno;
    this.syscall = cause.syscall ?? '';
    this.path = path;
    this.neededBytes = neededBytes;
    this.freeBytes = freeBytes;
  }
}

/**
 * What an error of a write means. Any other than ENOSPC and EDQUOT stays as it is.
 * @param path of the file that was to be written
 * @param neededBytes what it takes
 */
export async function withRoom(error: unknown, path: string, neededBytes: number): Promise<unknown> {
  if (error instanceof FullDiskError || !isSystemError(error, 'ENOSPC', 'EDQUOT')) return error;
  const directory = dirname(path);
  if (systemCodeOf(error) === 'EDQUOT')
    return new FullDiskError(error, { path, neededBytes, why: `the quota for ${directory} is used up` });
  try {
    const { bavail, bsize, ffree, files } = await statfs(directory);
    const freeBytes = bavail * bsize;
    const isOutOfNames = files > 0 && ffree === 0;
    const why = isOutOfNames
      ? `the file system of ${directory} takes no more files`
      : `${formatBytes(freeBytes)} are free on the file system of ${directory}`;
    return new FullDiskError(error, { path, neededBytes, freeBytes, why });
  } catch {
    // The system says that it's full, if not how full.
    return new FullDiskError(error, {
      path,
      neededBytes,
      why: `the file system of ${directory} has no space left`,
    });
  }
}

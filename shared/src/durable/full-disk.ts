import { statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { bottomOf, isSystemError, SitecastError, systemCodeOf } from '../errors.ts';
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
export function withRoom(error: unknown, path: string, neededBytes: number): unknown {
  if (error instanceof FullDiskError || !isSystemError(error, 'ENOSPC', 'EDQUOT')) return error;
  return new FullDiskError(error, { path, neededBytes, ...roomIn(dirname(path), error) });
}

/**
 * The error of a server or a command whose disk is full, which an operator can cure: it says where, how much is free, and how much is
 * needed, as far as that is known.
 * @param owner as in `origin`
 * @param directory on the disk
 * @param cause the system's error, or that of a database
 */
export function diskFull(
  owner: string,
  directory: string,
  { cause, neededBytes, what = 'this' }: { cause?: unknown; neededBytes?: number; what?: string } = {},
): SitecastError {
  const { why, freeBytes } = roomIn(directory, cause);
  const needed = neededBytes === undefined ? '' : `; ${what} takes ${formatBytes(neededBytes)}`;
  const text = cause instanceof FullDiskError ? cause.message : `${why}${needed}`;
  return new SitecastError('noSpace', 'SITECAST_NO_SPACE', `the disk of the ${owner} is full: ${text}`, {
    hint: `Make room on the file system of ${directory}, then try again.`,
    data: {
      path: directory,
      ...(freeBytes !== undefined && { freeBytes }),
      ...(neededBytes !== undefined && { neededBytes }),
    },
    cause,
  });
}

/** Why nothing can be written to a directory, and how much is free on its file system, where the system tells that. */
function roomIn(directory: string, cause: unknown): { why: string; freeBytes?: number } {
  if (systemCodeOf(cause) === 'EDQUOT' || /quota exceeded/i.test(bottomOf(cause)))
    return { why: `the quota for ${directory} is used up` };
  try {
    const { bavail, bsize, ffree, files } = statfsSync(directory);
    const freeBytes = bavail * bsize;
    const isOutOfNames = files > 0 && ffree === 0;
    const why = isOutOfNames
      ? `the file system of ${directory} takes no more files`
      : `${formatBytes(freeBytes)} are free on the file system of ${directory}`;
    return { why, freeBytes };
  } catch {
    // The system says that it's full, if not how full.
    return { why: `the file system of ${directory} has no space left` };
  }
}

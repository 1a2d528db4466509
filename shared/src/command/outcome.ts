import { FullDiskError } from '../durable/index.ts';
import { type ErrorKind, isSystemError, SitecastError } from '../errors.ts';

/** What the exit code of a Sitecast command means. docs/ERRORS.md and every `--help` show this table. */
export const EXIT_CODES = {
  0: 'done, or nothing was left to do',
  1: 'failed',
  2: 'wrong usage, configuration or input',
  3: 'refused: not allowed, or in conflict with what is there',
  4: 'the other side cannot be reached or is busy: try again',
  5: 'not trusted: a signature, hash, freshness or certificate check failed',
} as const;

export type ExitCode = keyof typeof EXIT_CODES;

const EXIT_OF_KIND: Record<ErrorKind, ExitCode> = {
  badInput: 2,
  unauthenticated: 3,
  forbidden: 3,
  notFound: 3,
  conflict: 3,
  tooLarge: 2,
  untrusted: 5,
  unreachable: 4,
  noSpace: 1,
  failed: 1,
};

/** The exit code for a named file that can't be used. */
export const WRONG_INPUT = 2;

export function exitCodeOf(error: unknown): ExitCode {
  return error instanceof SitecastError ? EXIT_OF_KIND[error.kind] : 1;
}

const SYSTEM_MESSAGES: Record<string, string> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EISDIR: 'is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  EEXIST: 'is already there',
  ENOSPC: 'no space left on the device',
  EROFS: 'the file system is read-only',
  EADDRINUSE: 'the address is in use by another process',
};

/** The one or two lines that a user reads: what failed, its code, what to do. They never hold a stack trace. */
export function describeError(error: unknown): { code: string; message: string; hint?: string } {
  if (error instanceof SitecastError) {
    const described = { code: error.code, message: error.message };
    return error.hint === undefined ? described : { ...described, hint: error.hint };
  }
  if (error instanceof FullDiskError)
    return {
      code: `SITECAST_SYSTEM_${error.code}`,
      message: error.message,
      hint: 'make room there, then try again',
    };
  if (isSystemError(error) && error.code !== undefined && error.code in SYSTEM_MESSAGES) {
    const subject =
      error.path ??
      ('address' in error
        ? `${String(error.address)}:${String('port' in error ? error.port : '')}`
        : undefined);
    return {
      code: `SITECAST_SYSTEM_${error.code}`,
      message: `${subject ?? 'system call'}: ${SYSTEM_MESSAGES[error.code]}`,
    };
  }
  return { code: 'SITECAST_INTERNAL', message: error instanceof Error ? error.message : String(error) };
}

import { constants } from 'node:os';

/** What went wrong, as a caller may want to treat it: it decides an exit code and an HTTP status. */
export type ErrorKind =
  | 'badInput'
  | 'unauthenticated'
  | 'forbidden'
  | 'notFound'
  | 'conflict'
  | 'tooLarge'
  | 'untrusted'
  | 'unreachable'
  | 'noSpace'
  | 'failed';

/** A stable name for a condition; the message may change, the code doesn't. Listed in docs/ERRORS.md. */
export type ErrorCode = `SITECAST_${string}`;

interface ErrorDetail {
  /** What the user can do about it, one sentence. */
  hint?: string;
  /** The failed thing, for machines: names, ids, sizes. Never a secret. */
  data?: Record<string, unknown>;
  cause?: unknown;
}

/** Every error that Sitecast raises on purpose. Branch on `code` or `kind`, never on the message. */
export class SitecastError extends Error {
  override readonly name = 'SitecastError';
  readonly code: ErrorCode;
  readonly kind: ErrorKind;
  readonly hint: string | undefined;
  readonly data: Record<string, unknown>;

  constructor(kind: ErrorKind, code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.kind = kind;
    this.code = code;
    this.hint = detail.hint;
    this.data = detail.data ?? {};
  }
}

/** True for a system error (`fs`, `net`) with one of these codes, such as `ENOENT`; without codes, for any. */
export function isSystemError(error: unknown, ...codes: string[]): error is NodeJS.ErrnoException {
  if (!(error instanceof Error) || !('code' in error)) return false;
  return codes.length === 0 ? 'syscall' in error : codes.includes(systemCodeOf(error));
}

/** Linux's names that Node doesn't know: it calls them `Unknown system error -122`. */
const UNNAMED: ReadonlyMap<unknown, string> = new Map([
  [-constants.errno.EDQUOT, 'EDQUOT'],
  [-constants.errno.ESTALE, 'ESTALE'],
  [-123, 'ENOMEDIUM'],
  // How ext4 and XFS say that a block of theirs is damaged: EBADMSG, EUCLEAN.
  [-constants.errno.EBADMSG, 'EIO'],
  [-117, 'EIO'],
]);

/** Such as `ENOENT`; empty for an error that has no code. */
export function systemCodeOf(error: unknown): string {
  if (!(error instanceof Error) || !('code' in error)) return '';
  const unnamed = 'errno' in error ? UNNAMED.get(error.errno) : undefined;
  return unnamed ?? String(error.code);
}

/**
 * What lies at the bottom of a failed request, for a message: `connect ECONNREFUSED 127.0.0.1:7400` where the outermost
 * error says less.
 */
export function bottomOf(error: unknown): string {
  const bottom = bottomErrorOf(error);
  if (!(bottom instanceof Error)) return String(bottom);
  return bottom.message === '' && 'code' in bottom ? String(bottom.code) : bottom.message;
}

/** The innermost cause. */
export function bottomErrorOf(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  // An address that has several, such as `localhost`, fails once for each, without a message of its own.
  const inner: unknown = error instanceof AggregateError ? error.errors[0] : error.cause;
  return inner === undefined ? error : bottomErrorOf(inner);
}

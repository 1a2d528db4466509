import { type ErrorCode, SitecastError } from '../errors.ts';

/** Which file failed, and the section of the TUF specification that asks for the check. */
export interface CheckedAt {
  role: string;
  step: string;
}

/** The error for metadata that doesn't pass a check. */
export function refusal(
  code: ErrorCode,
  message: string,
  at: CheckedAt,
  data: Record<string, unknown> = {},
): SitecastError {
  return new SitecastError('untrusted', code, message, { data: { ...at, ...data } });
}

/** Rollback (sections 5.3.5, 5.4.3, 5.5.5): something older than what is trusted already. */
export function rollback(at: CheckedAt, trusted: number, offered: number): SitecastError {
  return refusal(
    'SITECAST_METADATA_ROLLBACK',
    `Version ${offered} of ${at.role} is offered, but version ${trusted} is trusted already`,
    at,
    { trusted, offered },
  );
}

/** The file differs from what the signed file that refers to it says (sections 5.3.5, 5.5.2, 5.5.4, 5.6.2, 5.6.4). */
export function mismatch(at: CheckedAt, why: string): SitecastError {
  return refusal(
    'SITECAST_METADATA_MISMATCH',
    `The ${at.role} metadata isn't the file that was announced: ${why}`,
    at,
  );
}

/** A file that the repository should have, but lacks or withholds. */
export function missing(at: CheckedAt, path: string): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_METADATA_MISSING',
    `The repository has no ${path}, although the signed metadata needs it`,
    { data: { ...at, path } },
  );
}

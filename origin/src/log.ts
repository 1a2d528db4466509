import { bottomOf, SitecastError } from '@sitecast/shared/errors';

/** What is logged: structured fields first, then one plain sentence. Never a token or a private key. */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/**
 * What is logged of an error. What may be expected (a full disk, a missing key, a damaged file) has a code, and is one line; anything else
 * is a defect, and its stack is wanted.
 */
export function errorFields(error: unknown): object {
  if (!(error instanceof SitecastError) || error.code === 'SITECAST_INTERNAL') return { err: error };
  const { code, message, hint } = error;
  const bottom = error.cause === undefined ? undefined : bottomOf(error.cause);
  return { code, detail: message, ...(hint && { hint }), ...(bottom !== undefined && { cause: bottom }) };
}

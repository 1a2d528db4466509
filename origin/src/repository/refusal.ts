import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';

/** Why a change isn't published. */
export function refused(
  kind: 'badInput' | 'conflict' | 'tooLarge',
  code: ErrorCode,
  message: string,
  data: Record<string, unknown>,
  hint?: string,
): SitecastError {
  return new SitecastError(kind, code, message, hint === undefined ? { data } : { data, hint });
}

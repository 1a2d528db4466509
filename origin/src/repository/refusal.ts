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

export function notInitialised(): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_NOT_INITIALISED',
    'the repository is empty: its first change must hold both root and targets',
    { hint: 'Run sitecast init.' },
  );
}

export function changeEmpty(): SitecastError {
  return new SitecastError('badInput', 'SITECAST_CHANGE_EMPTY', 'the change holds neither root nor targets');
}

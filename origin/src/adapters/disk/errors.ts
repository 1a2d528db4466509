import { isSystemError, SitecastError } from '@sitecast/shared/errors';

/** A full disk is an operator's matter, not a defect: it gets a code of its own. Other errors stay as they are. */
export function translated(error: unknown): unknown {
  if (!isSystemError(error, 'ENOSPC', 'EDQUOT')) return error;
  return new SitecastError('noSpace', 'SITECAST_NO_SPACE', 'the disk of the origin is full', {
    hint: "Make room below the origin's --data directory, then try again.",
    cause: error,
  });
}

import type { SitecastError } from '@sitecast/shared/errors';
import { problemResponse as plainProblem, statusOf, toSitecastError } from '@sitecast/shared/http-problem';
import { HTTPException } from 'hono/http-exception';

/** For errors that name no time themselves. */
const RETRY_AFTER_S = 1;

/** The error as a SitecastError. Any other error becomes `SITECAST_INTERNAL`, whose text reveals nothing internal. */
export function asSitecastError(error: unknown): SitecastError {
  return toSitecastError(error, 'origin', error instanceof HTTPException ? error.status : undefined);
}

/** An error as a response. */
export function problemResponse(error: SitecastError, headers: Record<string, string> = {}): Response {
  const status = statusOf(error);
  const { retryAfterS = RETRY_AFTER_S } = error.data;
  return plainProblem(error, {
    // Signed requests need a signature: a challenge for a bearer token would mislead.
    ...(status === 401 && error.code.startsWith('SITECAST_TOKEN_') ? { 'www-authenticate': 'Bearer' } : {}),
    ...(status === 503 || status === 429 ? { 'retry-after': String(retryAfterS) } : {}),
    ...headers,
  });
}

import type { SitecastError } from '@sitecast/shared/errors';
import {
  forStrangers,
  problemResponse as plainProblem,
  statusOf,
  toSitecastError,
} from '@sitecast/shared/http-problem';
import { HTTPException } from 'hono/http-exception';

/** `Retry-After` of an error that says none, in seconds. */
const RETRY_AFTER_S = 2;

/** An error as a SitecastError. Any other becomes `SITECAST_INTERNAL`, whose text says nothing of the inside. */
export function asSitecastError(error: unknown): SitecastError {
  return toSitecastError(error, 'gateway', error instanceof HTTPException ? error.status : undefined);
}

/** An error as a response. Nobody who asks a gateway is its operator. */
export function problemResponse(error: SitecastError, headers: Record<string, string> = {}): Response {
  const status = statusOf(error);
  const { retryAfterS = RETRY_AFTER_S } = error.data;
  return plainProblem(forStrangers(error, 'gateway'), {
    ...(status === 503 || status === 429 ? { 'retry-after': String(retryAfterS) } : {}),
    ...headers,
  });
}

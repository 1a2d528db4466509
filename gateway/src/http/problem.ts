import { type ErrorCode, type ErrorKind, isSystemError, SitecastError } from '@sitecast/shared/errors';
import { z } from '@hono/zod-openapi';
import { STATUS_CODES } from 'node:http';
import { HTTPException } from 'hono/http-exception';

/** RFC 9457, with a code that never changes. */
export const problemSchema = z
  .object({
    type: z.literal('about:blank'),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    code: z.string().openapi({ example: 'SITECAST_REQUEST_UNSIGNED' }),
    hint: z.string().optional(),
    data: z.record(z.string(), z.unknown()).optional(),
  })
  .openapi('Problem');

const STATUS_OF_KIND: Record<ErrorKind, number> = {
  badInput: 400,
  unauthenticated: 401,
  forbidden: 403,
  notFound: 404,
  conflict: 409,
  tooLarge: 413,
  untrusted: 422,
  noSpace: 507,
  unreachable: 503,
  failed: 500,
};

/** Where HTTP has a status that says more than the kind does. */
const STATUS_OF_CODE = new Map<ErrorCode, number>([
  ['SITECAST_METHOD_NOT_ALLOWED', 405],
  ['SITECAST_BODY_TOO_SLOW', 408],
  ['SITECAST_MEDIA_TYPE_UNSUPPORTED', 415],
  ['SITECAST_RANGE_UNSATISFIABLE', 416],
  ['SITECAST_RATE_LIMITED', 429],
]);

const CODE_OF_STATUS = new Map<number, [ErrorKind, ErrorCode]>([
  [400, ['badInput', 'SITECAST_REQUEST_INVALID']],
  [413, ['tooLarge', 'SITECAST_BODY_TOO_LARGE']],
  [415, ['badInput', 'SITECAST_MEDIA_TYPE_UNSUPPORTED']],
]);

const RETRY_AFTER_S = '2';

/** The error as Sitecast's: what isn't one becomes `SITECAST_INTERNAL`, whose text says nothing of the inside. */
export function asSitecastError(error: unknown): SitecastError {
  if (error instanceof SitecastError) return error;
  if (error instanceof HTTPException) {
    const known = CODE_OF_STATUS.get(error.status);
    if (known) return new SitecastError(known[0], known[1], error.message, { cause: error });
  }
  if (isSystemError(error, 'ENOSPC', 'EDQUOT')) {
    return new SitecastError('noSpace', 'SITECAST_NO_SPACE', 'the disk of the gateway is full', {
      cause: error,
    });
  }
  return new SitecastError('failed', 'SITECAST_INTERNAL', 'the gateway failed to do this; its log says why', {
    cause: error,
  });
}

export function statusOf({ code, kind }: SitecastError): number {
  return STATUS_OF_CODE.get(code) ?? STATUS_OF_KIND[kind];
}

/** An error as a response. Never cached: what is wrong now may be right a moment later. */
export function problemResponse(error: SitecastError, headers: Record<string, string> = {}): Response {
  const status = statusOf(error);
  const { code, message, hint, data } = error;
  const body = {
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    detail: message,
    code,
    ...(hint ? { hint } : {}),
    ...(Object.keys(data).length > 0 ? { data } : {}),
  };
  return new Response(JSON.stringify(body), {
    status,
    headers: {
      'content-type': 'application/problem+json',
      'cache-control': 'no-store',
      ...(status === 503 || status === 429 ? { 'retry-after': RETRY_AFTER_S } : {}),
      ...headers,
    },
  });
}

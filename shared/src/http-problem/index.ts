import { STATUS_CODES } from 'node:http';
import { type ErrorCode, type ErrorKind, isSystemError, SitecastError } from '../errors.ts';
import { cutText } from '../text/index.ts';

/** The bound of each text that the reader of an answer accepts. */
export const MAX_DETAIL_CHARS = 8192;
export const MAX_HINT_CHARS = 1024;

/** The longest description of what is wrong with a request. */
const MAX_ISSUES_CHARS = 2000;

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

/** Codes with a more specific HTTP status than their kind has. */
const STATUS_OF_CODE = new Map<ErrorCode, number>([
  ['SITECAST_METHOD_NOT_ALLOWED', 405],
  ['SITECAST_BODY_TOO_SLOW', 408],
  ['SITECAST_MEDIA_TYPE_UNSUPPORTED', 415],
  ['SITECAST_RANGE_UNSATISFIABLE', 416],
  ['SITECAST_RATE_LIMITED', 429],
  ['SITECAST_REPORTS_OVER_BUDGET', 429],
  // An operator can mend this. The client keeps what it has and tries again.
  ['SITECAST_ONLINE_KEY_MISSING', 503],
  ['SITECAST_CLOCK_AHEAD', 503],
  ['SITECAST_CLOCK_NEVER_SET', 503],
]);

/** Our codes for the errors that an HTTP library raises. */
const CODE_OF_STATUS = new Map<number, [ErrorKind, ErrorCode]>([
  [400, ['badInput', 'SITECAST_REQUEST_INVALID']],
  [413, ['tooLarge', 'SITECAST_BODY_TOO_LARGE']],
  [415, ['badInput', 'SITECAST_MEDIA_TYPE_UNSUPPORTED']],
]);

export function statusOf({ code, kind }: SitecastError): number {
  return STATUS_OF_CODE.get(code) ?? STATUS_OF_KIND[kind];
}

/**
 * Turns an error into a SitecastError. An unknown error becomes `SITECAST_INTERNAL`, whose text reveals nothing internal.
 * @param who the server that answers, such as `gateway`
 * @param refusedStatus the status with which the HTTP library itself refused the request
 */
export function toSitecastError(error: unknown, who: string, refusedStatus?: number): SitecastError {
  if (error instanceof SitecastError) return error;
  const known = refusedStatus === undefined ? undefined : CODE_OF_STATUS.get(refusedStatus);
  if (known && error instanceof Error)
    return new SitecastError(known[0], known[1], error.message, { cause: error });
  if (isSystemError(error, 'ENOSPC', 'EDQUOT')) {
    return new SitecastError('noSpace', 'SITECAST_NO_SPACE', `the disk of the ${who} is full`, {
      cause: error,
    });
  }
  return new SitecastError('failed', 'SITECAST_INTERNAL', `the ${who} failed to do this; its log says why`, {
    cause: error,
  });
}

/**
 * An error for others than operators: where the data of a server lie, and how much room they have, doesn't concern them.
 * @param who as for `toSitecastError`
 */
export function forStrangers(error: SitecastError, who: string): SitecastError {
  if (error.code !== 'SITECAST_NO_SPACE') return error;
  return new SitecastError(error.kind, error.code, `the disk of the ${who} is full`, {
    hint: 'Its operators have to make room; try again later.',
  });
}

/** An error as a response (RFC 9457). It is never cached, because the error may be gone a moment later. */
export function problemResponse(error: SitecastError, headers: Record<string, string> = {}): Response {
  const status = statusOf(error);
  const { code, message, hint, data } = error;
  const body = {
    type: 'about:blank',
    title: STATUS_CODES[status] ?? 'Error',
    status,
    detail: cutText(message, MAX_DETAIL_CHARS),
    code,
    ...(hint ? { hint: cutText(hint, MAX_HINT_CHARS) } : {}),
    ...(Object.keys(data).length > 0 ? { data } : {}),
  };
  return new Response(JSON.stringify(body), {
    status,
    headers: { 'content-type': 'application/problem+json', 'cache-control': 'no-store', ...headers },
  });
}

/** The methods of each path that a router knows (RFC 9110, section 15.5.6). */
export function methodsByPath(
  routes: readonly { path: string; method: string }[],
): Map<string, readonly string[]> {
  const methods = new Map<string, Set<string>>();
  for (const { path, method } of routes) {
    if (method === 'ALL') continue;
    const known = methods.get(path) ?? new Set();
    known.add(method);
    if (method === 'GET') known.add('HEAD');
    methods.set(path, known);
  }
  return new Map([...methods].map(([path, known]) => [path, [...known].sort()]));
}

export function methodNotAllowed(method: string, allow: readonly string[]): SitecastError {
  return new SitecastError('badInput', 'SITECAST_METHOD_NOT_ALLOWED', `${method} isn't possible here`, {
    data: { allow },
  });
}

/** The error for a request that a schema refuses: each wrong field, and what is wrong with it, in one line. */
export function invalidRequest({
  issues,
}: {
  issues: readonly { path: readonly PropertyKey[]; message: string }[];
}): SitecastError {
  const texts = issues.map(({ path, message }) =>
    path.length === 0 ? message : `${path.map(String).join('.')}: ${message}`,
  );
  const what = cutText(texts.join('; '), MAX_ISSUES_CHARS);
  return new SitecastError('badInput', 'SITECAST_REQUEST_INVALID', `the request is invalid: ${what}`);
}

/** What a server says that is wrong: its code, and its texts, shortened. Nobody has verified it. */
export interface SaidProblem {
  code: string;
  detail?: string;
  hint?: string;
  /** One word of its data, which tells apart what has the same code. */
  why?: string;
}

const WHY = /^[A-Za-z]{1,32}$/;
const CODE = /^[A-Z][A-Z0-9_]{2,63}$/;

/**
 * Reads an error of a Sitecast server.
 * @param body of an answer, or what came of it
 * @param maxChars of each text
 * @returns undefined where it is none
 */
export function problemOf(body: Uint8Array | undefined, maxChars: number): SaidProblem | undefined {
  const value = parseOrUndefined(body ?? new Uint8Array());
  if (typeof value !== 'object' || value === null || !('code' in value)) return undefined;
  const { code, detail, hint, data }: { code: unknown; detail?: unknown; hint?: unknown; data?: unknown } =
    value;
  if (typeof code !== 'string' || !CODE.test(code)) return undefined;
  return {
    code,
    ...(typeof detail === 'string' && { detail: cutText(detail, maxChars) }),
    ...(typeof hint === 'string' && { hint: cutText(hint, maxChars) }),
    ...whyIn(data),
  };
}

function whyIn(data: unknown): { why?: string } {
  if (typeof data !== 'object' || data === null || !('why' in data)) return {};
  return typeof data.why === 'string' && WHY.test(data.why) ? { why: data.why } : {};
}

function parseOrUndefined(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString());
  } catch {
    // A page of a captive portal, say.
    return undefined;
  }
}

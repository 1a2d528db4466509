import { bottomErrorOf, type ErrorCode, SitecastError, systemCodeOf } from '../errors.ts';
import type { Connections } from './connections.ts';
import { explain, type Explanation } from './explain.ts';
import { type Proxy, proxyName } from './proxies.ts';
import { TunnelError } from './tunnel.ts';

interface FailureOptions {
  /** For a failure without a code of its own: nothing listens there, or the connection broke. */
  code: ErrorCode;
  connections: Connections;
  /** What to do about it; by default a question. */
  hint?: string;
  /** The caller retries by itself, so a server that isn't trusted counts as unreachable. By default it is `untrusted`, for people. */
  isTriedAgain?: boolean;
  /** What precedes the reason in the message; by default the URL. */
  subject?: string;
  data?: Record<string, unknown>;
}

const NOT_THERE_HINT = 'Is it running, and is the address right?';

/** The error of a request that got no answer. A known reason has a code and a hint of its own. */
export function noAnswer(
  error: unknown,
  url: URL,
  {
    code,
    connections,
    hint = NOT_THERE_HINT,
    isTriedAgain = false,
    subject = url.href,
    data,
  }: FailureOptions,
): SitecastError {
  if (error instanceof SitecastError) return error;
  const proxy = connections.proxies.for(url);
  const found = proxy ? throughProxy(error, url, proxy) : explain(error, url);
  const kind = isTriedAgain ? 'unreachable' : (found.kind ?? 'unreachable');
  return new SitecastError(kind, found.code ?? code, `${subject}: ${found.why}`, {
    hint: found.hint ?? hint,
    data: { url: url.href, ...data, ...(proxy && { proxy: proxyName(proxy) }), ...reasonOf(error) },
    cause: error,
  });
}

function reasonOf(error: unknown): { reason?: string } {
  const reason = systemCodeOf(bottomErrorOf(error));
  return reason === '' ? {} : { reason };
}

function throughProxy(error: unknown, url: URL, proxy: Proxy): Explanation {
  const isItself = error instanceof TunnelError || url.protocol === 'http:';
  const name = proxyName(proxy);
  if (!isItself) {
    const found = explain(error, url);
    return { ...found, why: `${found.why} (through the proxy ${name})` };
  }
  const status = error instanceof TunnelError ? error.status : undefined;
  if (status !== undefined)
    return {
      code: 'SITECAST_PROXY_REFUSED',
      why: `the proxy ${name} answered ${status} when it was asked to connect`,
      hint: PROXY_HINTS.get(status) ?? `Whatever it is allowed to reach: ${EXEMPT_HINT}`,
    };
  const { why } = explain(error instanceof TunnelError ? error.cause : error, proxy.url);
  return { code: 'SITECAST_PROXY_UNREACHABLE', why: `by the proxy ${name}: ${why}`, hint: PROXY_DOWN_HINT };
}

const EXEMPT_HINT = 'NO_PROXY exempts hosts that are to be reached without it.';
const PROXY_DOWN_HINT = `Is it running, and is the variable right? ${EXEMPT_HINT}`;
const PROXY_HINTS = new Map([
  [407, 'It wants credentials: http://user:password@proxy:port in the variable.'],
  [403, `Its rules forbid that host or port. ${EXEMPT_HINT}`],
  [502, 'It can not reach that host either: is the host running, and is its name right?'],
  [503, 'It can not reach that host either: is the host running, and is its name right?'],
  [504, 'It gets no answer from that host either.'],
]);

import * as http from 'node:http';
import * as https from 'node:https';
import { isIP, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { connect as connectTls, type SecureContext } from 'node:tls';
import type { Proxy } from './proxies.ts';

/** The longest time that a proxy may take to connect, and to answer CONNECT. */
const TUNNEL_TIMEOUT_MS = 15_000;
const MAX_ANSWER_HEAD_BYTES = 16 * 1024;

/** The proxy made no tunnel. */
export class TunnelError extends Error {
  /** The status of the answer to CONNECT; undefined if there was no answer. */
  readonly status: number | undefined;

  constructor(message: string, { status, cause }: { status?: number | undefined; cause?: unknown }) {
    super(message, cause === undefined ? undefined : { cause });
    this.status = status;
  }
}

/**
 * TLS connections through a proxy (CONNECT, RFC 9110 section 9.3.6). In all else it behaves like Node's agent: it keeps connections, and
 * counts them for each server.
 */
export class TunnelAgent extends https.Agent {
  readonly #proxy: Proxy;
  readonly #timeoutMs: number;
  readonly #trusted: SecureContext | undefined;

  /** @param trusted authorities for the server, and for a proxy that speaks TLS itself; undefined: those that Node trusts */
  constructor(
    proxy: Proxy,
    {
      trusted,
      timeoutMs = TUNNEL_TIMEOUT_MS,
      ...options
    }: http.AgentOptions & { trusted: SecureContext | undefined; timeoutMs?: number },
  ) {
    super({ ...options, ...(trusted && { secureContext: trusted }) });
    this.#proxy = proxy;
    this.#timeoutMs = timeoutMs;
    this.#trusted = trusted;
  }

  override createConnection(
    { path: _, ...options }: https.RequestOptions,
    callback?: (error: Error | null, socket: Duplex) => void,
  ): undefined {
    // The type requires a socket beside an error, though Node doesn't read it.
    const fail = (error: TunnelError): void => callback?.(error, new Duplex());
    const host = options.host ?? '';
    const target = `${isIP(host) === 6 ? `[${host}]` : host}:${options.port}`;
    const asking = this.#ask(target);
    const deadline = setTimeout(() => asking.destroy(timedOut(this.#timeoutMs)), this.#timeoutMs);
    asking.on('error', cause => fail(new TunnelError(cause.message, { cause })));
    asking.once('close', () => clearTimeout(deadline));
    // A refusal may have a body. Its connection is closed without reading it.
    asking.once('response', response => asking.destroy(new Error(`status ${response.statusCode}`)));
    asking.once('connect', ({ statusCode: status }, socket: Socket) => {
      clearTimeout(deadline);
      if (status !== undefined && status >= 200 && status < 300) {
        callback?.(null, connectTls({ ...options, host, port: Number(options.port), socket }));
        return;
      }
      socket.destroy();
      fail(new TunnelError(`the proxy answered ${status} to CONNECT ${target}`, { status }));
    });
    asking.end();
    return undefined;
  }

  #ask(target: string): http.ClientRequest {
    const { url } = this.#proxy;
    const trusted = this.#trusted;
    return (url.protocol === 'https:' ? https : http).request(url, {
      method: 'CONNECT',
      path: target,
      headers: { host: target, ...authorizationFor(this.#proxy) },
      agent: false,
      maxHeaderSize: MAX_ANSWER_HEAD_BYTES,
      ...(trusted && { secureContext: trusted }),
    });
  }
}

export function timedOut(afterMs: number): Error {
  return Object.assign(new Error(`no connection within ${afterMs / 1000} s`), { code: 'ETIMEDOUT' });
}

/** The header with the proxy's credentials, if its variable has any. */
export function authorizationFor({ url }: Proxy): Record<string, string> {
  if (url.username === '') return {};
  const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` };
}

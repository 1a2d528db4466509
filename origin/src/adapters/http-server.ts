import { createServer, type RequestListener, type Server, STATUS_CODES } from 'node:http';
import { createServer as createTlsServer, Server as TlsServer } from 'node:https';
import type { Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { SitecastError } from '@sitecast/shared/errors';
import { oneAtATime, SharedConnections } from '@sitecast/shared/http-guards';
import type { OriginApp } from '../http/context.ts';
import { BODY_PACE, maxBodyTimeMs } from '../http/body.ts';
import { problemResponse } from '../http/problem.ts';
import { MAX_TARGET_FILE_BYTES } from '../repository/repository-store.ts';

const MAX_HEADER_BYTES = 16 * 1024;
const MAX_HEADERS = 100;
const MAX_HEADERS_TIME_MS = 10_000;
const MAX_CONNECTIONS = 4096;
/** Gateways of many sites may share an address behind a router. */
const MAX_CONNECTIONS_PER_ADDRESS = 1024;
const CONNECTIONS = { max: MAX_CONNECTIONS, maxPerAddress: MAX_CONNECTIONS_PER_ADDRESS };
const KEEP_ALIVE_MS = 30_000;
const TIMEOUT_CHECK_MS = 5_000;
const IDLE_CHECK_MS = 50;

interface ListenOptions {
  host: string;
  port: number;
  /** PEM texts. */
  tls?: { cert: Buffer; key: Buffer } | undefined;
}

/** A server that listens. */
export interface RunningServer {
  /** With the port that it really got. */
  url: string;
  /** Takes a renewed certificate into use, for new connections. */
  renewTls(tls: { cert: Buffer; key: Buffer }): void;
  /** Takes no more requests; ends when those under way have ended, or after `graceMs`. */
  close(graceMs: number): Promise<void>;
}

// Every limit that node has for a request stands here.
const LIMITS = {
  maxHeaderSize: MAX_HEADER_BYTES,
  headersTimeout: MAX_HEADERS_TIME_MS,
  // The body has closer limits of its own, which know its length: this one is the last resort.
  requestTimeout: MAX_HEADERS_TIME_MS + maxBodyTimeMs(MAX_TARGET_FILE_BYTES, BODY_PACE),
  keepAliveTimeout: KEEP_ALIVE_MS,
  connectionsCheckingInterval: TIMEOUT_CHECK_MS,
};

/** Serves the app. */
export async function listen(app: OriginApp, { host, port, tls }: ListenOptions): Promise<RunningServer> {
  const server = tls ? createTlsServer({ ...LIMITS, ...tls, minVersion: 'TLSv1.2' }) : createServer(LIMITS);
  server.maxConnections = MAX_CONNECTIONS;
  // Without TLS it's a proxy on whose address all connections come, or loopback.
  if (tls) new SharedConnections(CONNECTIONS).guard(server);
  answerBy(appListener(app), server);

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return {
    url: `${tls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${portOf(server)}`,
    renewTls: renewed => {
      if (server instanceof TlsServer) server.setSecureContext(renewed);
    },
    close: graceMs => close(server, graceMs),
  };
}

/** A server with the same limits that doesn't listen: its connections come another way. */
export function createUnboundServer(listener: RequestListener): Server {
  const server = createServer(LIMITS);
  answerBy(listener, server);
  return server;
}

export function appListener(app: OriginApp): RequestListener {
  const listener = getRequestListener(app.fetch, { errorHandler: () => malformedRequest() });
  return (incoming, outgoing) => void listener(incoming, outgoing);
}

function answerBy(listener: RequestListener, server: Server): void {
  server.maxHeadersCount = MAX_HEADERS;
  const inTurn = oneAtATime(listener);
  server.on('request', inTurn);
  // A client that asks before it sends a body is told to go on only once its token was found good.
  server.on('checkContinue', inTurn);
  server.on('clientError', refuseMalformed);
}

async function close(server: Server, graceMs: number): Promise<void> {
  // A connection that becomes idle now would be kept for its client's next request, which won't be answered.
  const idle = setInterval(() => server.closeIdleConnections(), IDLE_CHECK_MS);
  const last = setTimeout(() => server.closeAllConnections(), graceMs);
  await new Promise<void>(resolve => {
    server.close(() => resolve());
    server.closeIdleConnections();
  });
  clearInterval(idle);
  clearTimeout(last);
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

function malformedRequest(): Response {
  return problemResponse(
    new SitecastError(
      'badInput',
      'SITECAST_REQUEST_INVALID',
      'the address or the host of the request is malformed',
    ),
  );
}

const STATUS_OF_CLIENT_ERROR = new Map([
  ['HPE_HEADER_OVERFLOW', 431],
  ['ERR_HTTP_REQUEST_TIMEOUT', 408],
]);

/** Bytes that aren't HTTP never become a request: the answer is written by hand. */
function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const status = STATUS_OF_CLIENT_ERROR.get(error.code ?? '') ?? 400;
  const title = STATUS_CODES[status] ?? 'Bad Request';
  const body = JSON.stringify({
    type: 'about:blank',
    title,
    status,
    detail: 'the request is not HTTP as this server takes it, or came too slowly',
    code: 'SITECAST_REQUEST_INVALID',
  });
  socket.end(
    `HTTP/1.1 ${status} ${title}\r\ncontent-type: application/problem+json\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
  );
}

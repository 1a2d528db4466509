import type { RequestListener, Server } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { limitedServer, type ServerLimits, SharedConnections } from '@sitecast/shared/http-guards';
import type { GatewayApp } from './app.ts';
import type { ChunkHandler } from '@sitecast/shared/chunk-http';

const LIMITS: ServerLimits = {
  headMs: 10_000,
  requestMs: 30_000,
  maxHeadBytes: 16 * 1024,
  keepAliveMs: 65_000,
  // Longer than the longest wait for a timestamp.
  silenceMs: 75_000,
};
const MAX_CONNECTIONS = 4096;
/** A device has about ten. Several devices may share an address behind a router. */
const MAX_CONNECTIONS_PER_ADDRESS = 512;

export interface ListeningServer {
  url: string;
  close(): Promise<void>;
}

/** For `listen`. */
export function sharedConnections(): SharedConnections {
  return new SharedConnections({ max: MAX_CONNECTIONS, maxPerAddress: MAX_CONNECTIONS_PER_ADDRESS });
}

/** A server with this gateway's limits on heads, bodies and silence. It doesn't listen yet. */
export function createGatewayServer(listener: RequestListener): Server {
  return limitedServer(LIMITS, listener);
}

function appListener(app: GatewayApp): RequestListener {
  const listener = getRequestListener((request, env) => app.fetch(request, env), {
    overrideGlobalObjects: false,
  });
  return (request, response) => void listener(request, response);
}

/** Starts to listen. @throws the system's EADDRINUSE, EACCES … */
export async function listen(
  app: GatewayApp,
  handleChunk: ChunkHandler,
  { host, port, connections }: { host: string; port: number; connections: SharedConnections },
): Promise<ListeningServer> {
  const listener = appListener(app);
  const server = createGatewayServer((request, response) => {
    const owner = connections.hosts.ownerOf(request.socket.remoteAddress);
    if (!handleChunk(request, response, { owner })) listener(request, response);
  });
  connections.guard(server);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port }, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return { url: urlOf(server, host), close: () => close(server) };
}

function urlOf(server: Server, host: string): string {
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Time for answers under way when the server closes. */
const CLOSE_GRACE_MS = 2000;

async function close(server: Server): Promise<void> {
  await new Promise<void>(resolve => {
    const timer = setTimeout(() => server.closeAllConnections(), CLOSE_GRACE_MS);
    server.close(() => {
      clearTimeout(timer);
      resolve();
    });
    server.closeIdleConnections();
  });
}

import { rename, rm, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { repeat } from '@sitecast/shared/async';
import type { ListenAddress } from '@sitecast/shared/command';
import { limitedServer } from '@sitecast/shared/http-guards';
import type { Registry } from 'prom-client';
import type { Log } from '../ports.ts';
import type { MetricsSettings } from './settings.ts';

// Who sends: processes of this machine. The worst: many requests. Each costs a few kilobytes of text, one after the other on a connection.

/** node_exporter reads its files at each scrape, mostly twice a minute. */
const WRITE_EVERY_MS = 15_000;
const MAX_CONNECTIONS = 8;
const LIMITS = {
  headMs: 5000,
  requestMs: 5000,
  maxHeadBytes: 8 * 1024,
  keepAliveMs: 90_000,
  silenceMs: 120_000,
};

/**
 * Keeps the metrics' file up to date, and serves them. Nothing of the agent's work depends on it: what goes wrong is logged once.
 * @returns ends it; the file is removed, since nobody keeps it up to date then
 */
export async function tellMetrics(
  registry: Registry,
  { file, listen }: MetricsSettings,
  log: Log,
): Promise<() => Promise<void>> {
  const stopWriting = file === undefined ? undefined : await keepWriting(file, registry, log);
  const stopServing = listen && (await serve(listen, registry, log));
  return async () => {
    await stopWriting?.();
    await stopServing?.();
  };
}

async function keepWriting(file: string, registry: Registry, log: Log): Promise<() => Promise<void>> {
  // Beside the file, and without its ending: node_exporter reads what ends with .prom.
  const partial = `${file}.partial`;
  let isFailing = false;
  const write = async (): Promise<void> => {
    try {
      await rm(partial, { force: true });
      // A new file: the directory is often another account's, who could have put a link there for the agent to write through.
      await writeFile(partial, await registry.metrics(), { mode: 0o644, flag: 'wx' });
      await rename(partial, file);
      isFailing = false;
    } catch (error) {
      if (!isFailing) log('warn', `the metrics can't be written to ${file}`, { err: error });
      isFailing = true;
    }
  };
  await write();
  const after = (delayMs: number, act: () => void): (() => void) => {
    const timer = setTimeout(act, delayMs).unref();
    return () => clearTimeout(timer);
  };
  const stop = repeat(write, { everyMs: WRITE_EVERY_MS, after });
  return async () => {
    await stop();
    await rm(file, { force: true });
    await rm(partial, { force: true });
  };
}

/** A port that is taken must not keep a device from its updates. */
async function serve(
  { host, port }: ListenAddress,
  registry: Registry,
  log: Log,
): Promise<(() => Promise<void>) | undefined> {
  const server = limitedServer(LIMITS, (request, response) => void answer(request, response, registry));
  server.maxConnections = MAX_CONNECTIONS;
  server.listen({ host, port });
  try {
    await once(server, 'listening');
  } catch (error) {
    log('warn', `the metrics can't be served at ${host}, port ${port}`, { err: error });
    return undefined;
  }
  server.unref();
  const address = server.address();
  const at = typeof address === 'object' && address ? address.port : port;
  log('info', 'the metrics are served', {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${at}/metrics`,
  });
  return async () => {
    server.closeAllConnections();
    await new Promise(resolve => server.close(resolve));
  };
}

async function answer(request: IncomingMessage, response: ServerResponse, registry: Registry): Promise<void> {
  request.resume();
  if (request.method !== 'GET' || request.url !== '/metrics') {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('The metrics are at /metrics.\n');
    return;
  }
  const text = await registry.metrics();
  response.writeHead(200, { 'content-type': registry.contentType }).end(text);
}

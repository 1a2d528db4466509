import { once } from 'node:events';
import { createServer } from 'node:net';
import { type Multiaddr, multiaddr } from '@multiformats/multiaddr';
import { Backoff, sleep } from '../async/index.ts';

/** Milliseconds between two attempts to listen on a place that is taken. */
const MIN_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 60_000;

/** Of libp2p's components: what listens. */
export interface Listening {
  listen(addresses: Multiaddr[]): Promise<void>;
}

/**
 * Listens on one more place, as soon as it is free.
 * @param address `/ip4/ADDRESS/tcp/PORT`
 * @returns false where the signal came before
 */
export async function listenWhenFree(
  listening: Listening,
  address: string,
  signal: AbortSignal,
): Promise<boolean> {
  const backoff = new Backoff(MIN_PAUSE_MS, MAX_PAUSE_MS);
  while (await sleep(backoff.next(), signal)) {
    // libp2p keeps something of each attempt that fails.
    if (!(await isFree(address)) || signal.aborted) continue;
    try {
      await listening.listen([multiaddr(address)]);
      return true;
    } catch (error) {
      // Somebody else was faster.
      if (!(error instanceof Error) || error.name !== 'UnsupportedListenAddressesError') throw error;
    }
  }
  return false;
}

/** Such as ` (EADDRINUSE)`; empty where libp2p's error doesn't tell. */
export function whyNotListening(error: unknown): string {
  const why = /listen (E[A-Z]+)/.exec(error instanceof Error ? error.message : '')?.[1];
  return why === undefined ? '' : ` (${why})`;
}

/** Whether this machine could listen there. */
async function isFree(address: string): Promise<boolean> {
  const [, host, port] = /^\/ip[46]\/([^/]+)\/tcp\/(\d+)/.exec(address) ?? [];
  const server = createServer();
  try {
    server.listen({ host, port: Number(port) });
    await once(server, 'listening');
    return true;
  } catch {
    // It is taken still, or the machine hasn't got the address yet.
    return false;
  } finally {
    server.close();
  }
}

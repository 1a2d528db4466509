import { setMaxListeners } from 'node:events';
import { SitecastError } from '../errors.ts';
import type { SwarmNode } from './node.ts';
import { connect, YIELD_MS } from './schedule/peer-links.ts';

// A machine that answers as a gateway names machines and their addresses. The worst answer has addresses of third parties. At most eight
// are tried at a time, whenever they are named, and only a handshake is sent there.

/** How many connections are kept while there is nothing to fetch: enough to keep a site connected, and cheap. */
export const MAX_NEIGHBOURS = 8;

/**
 * Keeps a node connected to a few machines of its site, so that an update doesn't begin with handshakes everywhere. Machines known from
 * multicast DNS only aren't used, as connecting to them isn't needed.
 */
export class Neighbours {
  readonly #node: SwarmNode;
  readonly #yieldMs: number;
  readonly #connecting = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();

  /** @param yieldMs how long the machine with the higher id waits for the other one to dial */
  constructor(node: SwarmNode, yieldMs = YIELD_MS) {
    this.#node = node;
    this.#yieldMs = yieldMs;
    setMaxListeners(4 * MAX_NEIGHBOURS, this.#stop.signal);
  }

  /** A peer that can't be reached isn't tried again until it is named again. */
  addPeer(id: string, addresses: readonly string[]): void {
    const node = this.#node;
    if (this.#stop.signal.aborted || id === node.id || this.#connecting.has(id)) return;
    // Strangers that have connected don't count: otherwise they would keep the others away.
    const connected = node.connected.filter(other => node.gate.isNamed(other)).length;
    if (node.isConnected(id) || connected + this.#connecting.size >= MAX_NEIGHBOURS) return;
    const attempt = connect(node, id, addresses, this.#stop.signal, this.#yieldMs)
      .catch((error: unknown) => {
        if (!(error instanceof SitecastError) && !this.#stop.signal.aborted) throw error;
      })
      .finally(() => this.#connecting.delete(id));
    this.#connecting.set(id, attempt);
  }

  async close(): Promise<void> {
    this.#stop.abort(new Error('closed'));
    await Promise.all(this.#connecting.values());
  }
}

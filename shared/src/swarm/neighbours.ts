import { setMaxListeners } from 'node:events';
import { SitecastError } from '../errors.ts';
import type { SwarmNode } from './node.ts';
import { connect, YIELD_MS } from './schedule/peer-links.ts';

// Who can send this: whoever answers as a gateway names machines, and where they are. The worst answer: addresses of third parties.
// They're tried at most eight at a time, each time that they're named, and nothing but a handshake goes there.

/** Connections that are kept while there's nothing to fetch: enough that a site hangs together, few enough to cost nothing. */
export const MAX_NEIGHBOURS = 8;

/**
 * Keeps a node connected to a few machines of its site, so that an update doesn't begin with handshakes everywhere. Not for
 * those that multicast DNS alone has found: a connection is made without being asked for.
 */
export class Neighbours {
  readonly #node: SwarmNode;
  readonly #yieldMs: number;
  readonly #connecting = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();

  /** @param yieldMs how long the one with the higher id lets the other dial first */
  constructor(node: SwarmNode, yieldMs = YIELD_MS) {
    this.#node = node;
    this.#yieldMs = yieldMs;
    setMaxListeners(4 * MAX_NEIGHBOURS, this.#stop.signal);
  }

  /** One that can't be reached is let be until it's named again. */
  meet(id: string, addresses: readonly string[]): void {
    const node = this.#node;
    if (this.#stop.signal.aborted || id === node.id || this.#connecting.has(id)) return;
    // Who has connected without being known to anybody doesn't count: it would keep the others away.
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

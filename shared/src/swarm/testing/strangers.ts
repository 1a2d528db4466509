// For tests only: unknown hosts of a LAN, with addresses of their own on loopback, that attack a port.
import { connect, type Socket } from 'node:net';
import type { Connection } from '@libp2p/interface';
import { noise } from '@libp2p/noise';
import { tcp } from '@libp2p/tcp';
import { yamux } from '@libp2p/yamux';
import { multiaddr } from '@multiformats/multiaddr';
import { createLibp2p } from 'libp2p';
import pLimit from 'p-limit';
import { CHUNK_PROTOCOL } from '../chunks/wire.ts';

/** 127.0.0.2 to 127.0.0.9. */
export const EIGHT_ADDRESSES = Array.from({ length: 8 }, (_, at) => `127.0.0.${at + 2}`);

/** How many keys are invented. Further connections share them. */
const MAX_KEYS = 48;

/** Unknown hosts on some addresses. `close` ends all their connections. */
export class Strangers {
  readonly #addresses: readonly string[];
  readonly #sockets: Socket[] = [];
  readonly #nodes: Awaited<ReturnType<typeof createLibp2p>>[] = [];

  constructor(addresses: readonly string[] = EIGHT_ADDRESSES) {
    this.#addresses = addresses;
  }

  /** Opens this many sockets, from each address in turn, and sends nothing. */
  async beSilent(port: number, count: number): Promise<void> {
    const turn = pLimit(32);
    await turn.map(Array.from({ length: count }), async (_, at) => {
      const socket = connect({ port, host: '127.0.0.1', localAddress: this.#addressOf(at) });
      this.#sockets.push(socket.on('error', () => undefined));
      await new Promise(resolve => socket.once('connect', resolve).once('close', resolve));
    });
  }

  /** Opens this many connections with invented keys, and sends no request. @returns the connections that were made */
  async connectWithKeys(address: string, count: number): Promise<Connection[]> {
    const made: Connection[] = [];
    for (let at = 0; at < count; at += 1) {
      const node = await this.#nodeOf(at % MAX_KEYS);
      const connection = await node.dial(multiaddr(address), { force: true }).catch(() => undefined);
      if (connection) made.push(connection);
    }
    return made;
  }

  /** Opens this many streams of the chunk exchange, and sends no hello. */
  async openStreams(address: string, count: number): Promise<void> {
    const connections = await this.connectWithKeys(address, Math.ceil(count / 2));
    for (let at = 0; at < count; at += 1) {
      const connection = connections[at % connections.length];
      await connection?.newStream(CHUNK_PROTOCOL, { maxOutboundStreams: 2 }).catch(() => undefined);
    }
  }

  /** Sockets that are still open. */
  get open(): number {
    return this.#sockets.filter(({ destroyed }) => !destroyed).length;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets.splice(0)) socket.destroy();
    await Promise.all(this.#nodes.splice(0).map(async node => node.stop()));
  }

  #addressOf(at: number): string {
    return this.#addresses[at % this.#addresses.length] ?? '';
  }

  async #nodeOf(at: number) {
    const found = this.#nodes[at];
    if (found) return found;
    // The type has only some of the options of Node's sockets.
    const dialOpts = { noDelay: true, localAddress: this.#addressOf(at) };
    const node = await createLibp2p({
      transports: [tcp({ dialOpts })],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      connectionMonitor: { enabled: false },
    });
    this.#nodes[at] = node;
    return node;
  }
}

/**
 * Limits of an HTTP server that apply before it looks at a request. Anyone who can reach the port can be the sender. The worst they send
 * is thousands of connections, and on each as many requests as fit before the first answer is read.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { FairPool, type Lease, NamedHosts, senderOf } from '../bounded/index.ts';

export { repositoryOnly } from './repository-only.ts';

type Listener = (request: IncomingMessage, response: ServerResponse) => void;

/** How often Node looks for requests that take too long. */
const CHECK_EVERY_MS = 2000;

/** What a request and a silent connection may take. Node's defaults are minutes. */
export interface ServerLimits {
  /** For a request's head, in ms. */
  headMs: number;
  /** For the whole request, in ms. */
  requestMs: number;
  maxHeadBytes: number;
  /** How long a connection without a request is kept, in ms. */
  keepAliveMs: number;
  /** How long a connection may pass no byte in either direction, in ms, also while a request is answered. */
  silenceMs: number;
}

/** A server with these limits, which handles the requests of a connection one after the other. It doesn't listen yet. */
export function limitedServer(limits: ServerLimits, listener: Listener): Server {
  const server = createServer(
    {
      headersTimeout: limits.headMs,
      requestTimeout: limits.requestMs,
      maxHeaderSize: limits.maxHeadBytes,
      keepAliveTimeout: limits.keepAliveMs,
      connectionsCheckingInterval: CHECK_EVERY_MS,
    },
    oneAtATime(listener),
  );
  server.timeout = limits.silenceMs;
  return server;
}

/**
 * Handles the requests of one connection one after the other, each once the answer before it has been sent. Node calls the listener for
 * pipelined requests at once. An answer that waits behind another has no socket, isn't told when its client has gone, and would keep its
 * memory and files. One request may wait; a client that sends more without reading is disconnected. (No client of ours pipelines, and no
 * proxy does.)
 */
export function oneAtATime(listener: Listener): Listener {
  const hasWaiting = new WeakSet<Socket>();
  return (request, response) => {
    if (response.socket !== null) {
      listener(request, response);
      return;
    }
    const { socket } = request;
    if (hasWaiting.has(socket)) {
      socket.destroy();
      return;
    }
    hasWaiting.add(socket);
    response.once('socket', () => {
      hasWaiting.delete(socket);
      listener(request, response);
    });
  };
}

export interface ConnectionLimits {
  /**
   * The bound of all connections. Those of this machine aren't counted, because a proxy on it serves many clients. They may be as many
   * again.
   */
  max: number;
  maxPerAddress: number;
  /** Places beside `max` for connections of senders that proved who they are, and those of one. Default: none. */
  proven?: { max: number; maxPerSender: number };
}

/**
 * A server's connections. A new connection is always accepted. Where there is no room, the address with the most connections loses its
 * oldest. So does an address that exceeds its share.
 */
export class SharedConnections {
  /** Hosts that are counted by themselves, whatever network they share with others. */
  readonly hosts = new NamedHosts();
  readonly #max: number;
  readonly #pool: FairPool;
  readonly #proven: FairPool | undefined;
  readonly #places = new WeakMap<Socket, { lease: Lease; isProven: boolean }>();

  constructor({ max, maxPerAddress, proven }: ConnectionLimits) {
    this.#max = max + (proven?.max ?? 0);
    this.#proven =
      proven && new FairPool({ max: proven.max, maxPerOwner: proven.maxPerSender, sparesEquals: true });
    this.#pool = new FairPool({ max, maxPerOwner: maxPerAddress });
  }

  /** The current number, without those of this machine. */
  get held(): number {
    return this.#pool.used + (this.#proven?.used ?? 0);
  }

  /** How many connections were ended to make room. */
  get dropped(): number {
    const { takenBack, refused } = this.#pool.counts;
    return takenBack + refused + (this.#proven?.counts.takenBack ?? 0);
  }

  guard(server: Server): void {
    // Node itself would drop the newest connection, whatever its address. This bound keeps Node from doing so.
    server.maxConnections = 2 * this.#max;
    server.on('connection', (socket: Socket) => {
      if (senderOf(socket.remoteAddress) === undefined) return;
      const owner = this.hosts.ownerOf(socket.remoteAddress);
      const lease = this.#pool.lease(owner, 1, () => socket.destroy());
      if (!lease) {
        socket.destroy();
        return;
      }
      this.#places.set(socket, { lease, isProven: false });
      socket.once('close', () => this.#places.get(socket)?.lease.release());
    });
  }

  /**
   * A request on the connection proved who sends. From now on it has a place among those of proven senders, which strangers can't take.
   * Where a sender has too many, it loses its oldest; where all of them do, the sender with the most does. Where all have as many, this
   * one stays among the strangers'.
   */
  prove(socket: Socket, sender: string): void {
    const place = this.#places.get(socket);
    if (!place || place.isProven || socket.destroyed) return;
    const lease = this.#proven?.lease(sender, 1, () => socket.destroy());
    if (!lease) return;
    place.lease.release();
    this.#places.set(socket, { lease, isProven: true });
  }

  isProven(socket: Socket): boolean {
    return this.#places.get(socket)?.isProven ?? false;
  }
}

/**
 * What a server does about senders that nobody has vouched for, before a request is looked at. Anybody who reaches the port can be
 * the sender; the worst they send are thousands of connections, and on each as many requests as fit before the first
 * answer is read.
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { FairPool, NamedHosts, senderOf } from '../bounded/index.ts';

type Listener = (request: IncomingMessage, response: ServerResponse) => void;

/**
 * Hands requests of one connection on one after the other, as their answers go out. Node calls the listener for pipelined
 * requests at once; an answer that waits behind another has no socket, never hears that its client has gone, and would keep
 * the memory and files that it holds. One may wait; whoever sends more without reading is cut off. (None of our own
 * clients pipelines, nor do proxies.)
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
  /** All connections, but for those of this machine: a proxy on it speaks for many. As many again may be its. */
  max: number;
  maxPerAddress: number;
}

/**
 * A server's connections. Whoever comes is let in: where there's no room, the address that holds the most connections loses its oldest,
 * and so does one that wants more than its share.
 */
export class SharedConnections {
  /** Hosts that stand for themselves, whatever network they share with others. */
  readonly hosts = new NamedHosts();
  readonly #max: number;
  readonly #pool: FairPool;

  constructor({ max, maxPerAddress }: ConnectionLimits) {
    this.#max = max;
    this.#pool = new FairPool({ max, maxPerOwner: maxPerAddress });
  }

  /** Now, those of this machine left out. */
  get held(): number {
    return this.#pool.used;
  }

  /** Ended, so far, because others needed their places. */
  get dropped(): number {
    const { takenBack, refused } = this.#pool.counts;
    return takenBack + refused;
  }

  guard(server: Server): void {
    // Node itself drops the newest, whosever it is: it must never come to that.
    server.maxConnections = 2 * this.#max;
    server.on('connection', (socket: Socket) => {
      if (senderOf(socket.remoteAddress) === undefined) return;
      const owner = this.hosts.ownerOf(socket.remoteAddress);
      const lease = this.#pool.lease(owner, 1, () => socket.destroy());
      if (lease) socket.once('close', () => lease.release());
      else socket.destroy();
    });
  }
}

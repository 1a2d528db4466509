import * as http from 'node:http';
import type { Duplex } from 'node:stream';
import { peerIdFromString } from '@libp2p/peer-id';
import { FairPool } from '../../bounded/index.ts';
import { Connections } from '../../outbound/index.ts';
import type { SwarmNode } from '../node.ts';
import { StreamSocket } from './stream-socket.ts';

// HTTP/1.1 over libp2p streams. Each stream is one HTTP connection, which is kept open between requests.
//
// Each machine with the fleet's key can open streams here, including a stolen gateway. The worst it does: it opens as many as it can, and
// sends or reads nothing. So each peer has a few, all together have a bound, and the peer with the most loses its oldest. The timeouts of
// the HTTP server apply, too.

export const HTTP_PROTOCOL = '/sitecast/http/1';

/** How many streams one peer may open here, and how many are opened to one peer. Gossip uses others of a connection's 32. */
const MAX_STREAMS_PER_PEER = 8;
const MAX_STREAMS = 256;
/** The bound for a site's network, which any machine on the LAN can join with any number of keys. */
const MAX_OPEN_STREAMS = 64;
const MAX_STREAMS_PER_ADDRESS = 16;
/** How many of a peer's streams are for clients without a bound of their own, so that files and reports never wait for chunks. */
const SHARED_STREAMS = 3;
const OPEN_MS = 10_000;

/** The peer at the other end of an HTTP connection over a stream; undefined for other connections. */
export function peerOf(socket: Duplex): string | undefined {
  return peers.get(socket);
}

const peers = new WeakMap<Duplex, string>();

/**
 * Passes the streams that peers open to an HTTP server.
 * @param server needn't listen anywhere; its timeouts apply to streams, too
 * @param isOpen whether every machine on the LAN can join the network: then streams of unknown peers are counted by address, since keys can
 * be invented
 */
export async function serveHttpStreams(
  node: SwarmNode,
  server: http.Server,
  { isOpen = false }: { isOpen?: boolean } = {},
): Promise<void> {
  const pool = isOpen
    ? new FairPool({ max: MAX_OPEN_STREAMS, maxPerOwner: MAX_STREAMS_PER_ADDRESS })
    : new FairPool({ max: MAX_STREAMS, maxPerOwner: MAX_STREAMS_PER_PEER, sparesEquals: true });
  // This makes the server end connections that exceed `headersTimeout` and `requestTimeout`.
  if (!server.listening) server.emit('listening');
  await node.libp2p.handle(
    HTTP_PROTOCOL,
    (stream, connection) => {
      const id = connection.remotePeer.toString();
      const owner = isOpen ? node.gate.ownerOf(id, connection.remoteAddr.toString()) : id;
      const lease = pool.lease(owner, 1, () => stream.abort(new Error('its place was needed for others')));
      if (lease === undefined) {
        stream.abort(new Error('no room for another stream'));
        return;
      }
      stream.addEventListener('close', () => lease.release(), { once: true });
      const socket = new StreamSocket(stream);
      peers.set(socket, id);
      server.emit('connection', socket);
    },
    { maxInboundStreams: MAX_STREAMS_PER_PEER, maxOutboundStreams: MAX_STREAMS_PER_PEER },
  );
}

/** The URL for requests to a peer: `libp2p://PEER`. */
export function urlOfPeer(id: string): string {
  return `${SCHEME}//${id}`;
}

const SCHEME = 'libp2p:';

/**
 * Opens HTTP connections to one connected peer, as streams of its connection. Clients without a bound share three of them; the one client
 * of a peer with a bound has at most the other five.
 */
export function connectionsToPeer(node: SwarmNode, id: string): Connections {
  return Connections.through(options => new StreamAgent(node, id, options));
}

class StreamAgent extends http.Agent {
  readonly protocol = SCHEME;
  readonly #node: SwarmNode;
  readonly #peer: string;

  constructor(node: SwarmNode, peer: string, { maxSockets, ...options }: http.AgentOptions) {
    const own = Math.min(maxSockets ?? Number.POSITIVE_INFINITY, MAX_STREAMS_PER_PEER - SHARED_STREAMS);
    super({ ...options, maxSockets: Number.isFinite(maxSockets) ? own : SHARED_STREAMS });
    this.#node = node;
    this.#peer = peer;
  }

  override createConnection(): Duplex {
    return new StreamSocket(this.#open());
  }

  async #open() {
    const [connection] = this.#node.libp2p.getConnections(peerIdFromString(this.#peer));
    if (connection === undefined) throw Object.assign(new Error('it is not connected'), { code: 'ENOTCONN' });
    return await connection.newStream(HTTP_PROTOCOL, {
      maxOutboundStreams: MAX_STREAMS_PER_PEER,
      signal: AbortSignal.timeout(OPEN_MS),
    });
  }
}

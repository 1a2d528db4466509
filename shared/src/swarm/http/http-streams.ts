import * as http from 'node:http';
import type { Duplex } from 'node:stream';
import { peerIdFromString } from '@libp2p/peer-id';
import { FairPool } from '../../bounded/index.ts';
import { Connections } from '../../outbound/index.ts';
import type { SwarmNode } from '../node.ts';
import { StreamSocket } from './stream-socket.ts';

// HTTP/1.1 over libp2p streams: one stream is one connection of HTTP, kept open between requests.
//
// Each machine with the fleet's key can open streams here, a stolen gateway among them. The worst it does: it opens as many as it can and
// sends nothing, or reads nothing. So each peer has a few, all of them together have a bound, and the peer with the most loses its oldest;
// the timeouts of the HTTP server do the rest.

export const HTTP_PROTOCOL = '/sitecast/http/1';

/** Streams that one peer may have open here, and that are opened to one peer. Gossip needs some of a connection's 32 besides. */
const MAX_STREAMS_PER_PEER = 8;
const MAX_STREAMS = 256;
/** Of a site's network, which any machine on the LAN can join with any number of keys. */
const MAX_OPEN_STREAMS = 64;
const MAX_STREAMS_PER_ADDRESS = 16;
/** Of a peer's streams, those for requests without a bound of their own: files and reports never wait for chunks. */
const SHARED_STREAMS = 3;
const OPEN_MS = 10_000;

/** The peer at the other end of a connection that came by a stream; undefined for any other. */
export function peerOf(socket: Duplex): string | undefined {
  return peers.get(socket);
}

const peers = new WeakMap<Duplex, string>();

/**
 * Gives the streams that peers open to an HTTP server.
 * @param server need not listen anywhere; its timeouts hold for streams, too
 * @param isOpen the network is open to every machine on the LAN: what isn't a known peer's counts for its address, for keys can be made up
 */
export async function serveHttpStreams(
  node: SwarmNode,
  server: http.Server,
  { isOpen = false }: { isOpen?: boolean } = {},
): Promise<void> {
  const pool = isOpen
    ? new FairPool({ max: MAX_OPEN_STREAMS, maxPerOwner: MAX_STREAMS_PER_ADDRESS })
    : new FairPool({ max: MAX_STREAMS, maxPerOwner: MAX_STREAMS_PER_PEER, sparesEquals: true });
  // From then on it ends connections that exceed `headersTimeout` and `requestTimeout`.
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

/** The URL that requests to a peer have: `libp2p://PEER`. */
export function urlOfPeer(id: string): string {
  return `${SCHEME}//${id}`;
}

const SCHEME = 'libp2p:';

/**
 * Opens connections of HTTP to one peer that the node is connected with: streams of that connection. Clients without a bound share three of
 * them; a client with one, of which there is one for each peer, has at most the other five.
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

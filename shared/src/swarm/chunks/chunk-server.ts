import type { Connection, Stream } from '@libp2p/interface';
import type { SwarmNode } from '../node.ts';
import { MessageStream } from './message-stream.ts';
import { ServedPeer, type ServingPorts } from './served-peer.ts';
import { CHUNK_PROTOCOL, encodeAnswer, MAX_ASK_BYTES } from './wire.ts';

// Who can send this: anybody on the LAN. The worst messages: streams without end (so many together, few of one peer; one
// that nobody admits ends at once); requests without end (64 wait, more end the stream; two are worked at, so a stream
// holds two chunks and what its write buffer takes); readers that don't read (a deadline for each message written). What
// they can still do: take up the upload that the limits leave them, if they're admitted.

/** Peers that are served at one time; who comes later is told to come again. */
const MAX_SERVED_STREAMS = 64;
/** Streams of one peer, over all its connections: the second while the first one ends. */
export const MAX_STREAMS_PER_PEER = 2;

export interface ChunkServerOptions extends ServingPorts {
  readonly node: SwarmNode;
  readonly maxStreams?: number;
  readonly writeDeadlineMs?: number;
}

/** Hands out chunks to the peers of a site. */
export class ChunkServer {
  readonly #options: ChunkServerOptions;
  readonly #served = new Map<ServedPeer, string>();

  constructor(options: ChunkServerOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    await this.#options.node.libp2p.handle(
      CHUNK_PROTOCOL,
      (stream: Stream, connection: Connection) => this.#serve(stream, connection.remotePeer.toString()),
      { maxInboundStreams: MAX_STREAMS_PER_PEER, maxOutboundStreams: MAX_STREAMS_PER_PEER },
    );
  }

  async stop(): Promise<void> {
    await this.#options.node.libp2p.unhandle(CHUNK_PROTOCOL);
    for (const peer of this.#served.keys()) peer.end(new Error('it stops'));
  }

  /** Ends what is served to a peer: it was revoked, or has left the site. */
  drop(id: string): void {
    for (const [peer, peerId] of this.#served)
      if (peerId === id) peer.end(new Error('it is not served any more'));
  }

  get streams(): number {
    return this.#served.size;
  }

  #serve(stream: Stream, id: string): void {
    const { maxStreams = MAX_SERVED_STREAMS } = this.#options;
    const ofThisPeer = [...this.#served.values()].filter(served => served === id).length;
    if (this.#served.size >= maxStreams || ofThisPeer >= MAX_STREAMS_PER_PEER) {
      stream.abort(new Error('too many streams'));
      return;
    }
    let peer: ServedPeer | undefined;
    const messages = new MessageStream(stream, {
      maxMessageBytes: MAX_ASK_BYTES,
      ...(this.#options.writeDeadlineMs === undefined
        ? {}
        : { writeDeadlineMs: this.#options.writeDeadlineMs }),
      onMessage: message => peer?.take(message),
      onEnd: () => {
        if (!peer) return;
        this.#served.delete(peer);
        peer.ended();
      },
    });
    peer = new ServedPeer(id, this.#options, {
      send: answer => messages.send(...encodeAnswer(answer)),
      close: () => void messages.close(),
      abort: error => messages.abort(error),
    });
    this.#served.set(peer, id);
  }
}

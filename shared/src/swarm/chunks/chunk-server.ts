import type { Connection, Stream } from '@libp2p/interface';
import { FairPool, type Lease } from '../../bounded/index.ts';
import type { SwarmNode } from '../node.ts';
import { MessageStream } from './message-stream.ts';
import { ServedPeer, type ServingPorts } from './served-peer.ts';
import { CHUNK_PROTOCOL, encodeAnswer, MAX_ASK_BYTES } from './wire.ts';

// Any machine on the LAN can send this. The worst messages, and their bounds:
// - Streams without end. Streams that aren't admitted yet have places of their own; the address that holds the most loses its oldest. A
//   stream that is refused ends at once.
// - Requests without end. 64 may wait; one more ends the stream. Two are handled at a time, so a stream holds two chunks and its write
//   buffer.
// - Readers that don't read. Each write has a deadline.
// An admitted peer can still use up its own turns of the upload (`Pacer`).

/** How many streams of admitted peers are served at a time. Further ones are refused, and the peers try again. */
const MAX_SERVED_STREAMS = 64;
/** Streams whose peer hasn't been admitted yet. */
const MAX_UNADMITTED_STREAMS = 32;
const MAX_UNADMITTED_PER_ADDRESS = 16;
/** Streams of one peer, over all its connections: a second one may be open while the first one ends. */
export const MAX_STREAMS_PER_PEER = 2;

export interface ChunkServerOptions extends ServingPorts {
  readonly node: SwarmNode;
  readonly maxStreams?: number;
  readonly writeDeadlineMs?: number;
}

/** One stream, from when it is opened. */
interface Served {
  readonly id: string;
  readonly peer: ServedPeer;
  place: Lease;
}

/** Serves chunks to the peers of a site. */
export class ChunkServer {
  readonly #options: ChunkServerOptions;
  readonly #served = new Set<Served>();
  readonly #admitted: FairPool;
  readonly #unadmitted = new FairPool({
    max: MAX_UNADMITTED_STREAMS,
    maxPerOwner: MAX_UNADMITTED_PER_ADDRESS,
  });

  constructor(options: ChunkServerOptions) {
    this.#options = options;
    this.#admitted = new FairPool({
      max: options.maxStreams ?? MAX_SERVED_STREAMS,
      maxPerOwner: MAX_STREAMS_PER_PEER,
      sparesEquals: true,
    });
  }

  async start(): Promise<void> {
    await this.#options.node.libp2p.handle(
      CHUNK_PROTOCOL,
      (stream: Stream, connection: Connection) => this.#serve(stream, connection),
      { maxInboundStreams: MAX_STREAMS_PER_PEER, maxOutboundStreams: MAX_STREAMS_PER_PEER },
    );
  }

  async stop(): Promise<void> {
    await this.#options.node.libp2p.unhandle(CHUNK_PROTOCOL);
    for (const { peer } of this.#served) peer.end(new Error('it stops'));
  }

  /** Stops serving a peer that was revoked or has left the site. */
  drop(id: string): void {
    for (const served of this.#served)
      if (served.id === id) served.peer.end(new Error('it is not served any more'));
  }

  get streams(): number {
    return this.#served.size;
  }

  /** How many streams were ended or refused so far because there was no room for them. */
  get dropped(): number {
    const counts = [this.#admitted.counts, this.#unadmitted.counts];
    return counts.reduce((sum, { takenBack, refused }) => sum + takenBack + refused, 0);
  }

  #serve(stream: Stream, connection: Connection): void {
    const id = connection.remotePeer.toString();
    const ofThisPeer = [...this.#served].filter(served => served.id === id).length;
    let served: Served | undefined;
    const noRoom = (): void => stream.abort(new Error('too many streams'));
    const owner = this.#options.node.gate.ownerOf(id, connection.remoteAddr.toString());
    const place =
      ofThisPeer < MAX_STREAMS_PER_PEER
        ? this.#unadmitted.lease(owner, 1, () =>
            served?.peer.end(new Error('its place was needed for others')),
          )
        : undefined;
    if (!place) {
      noRoom();
      return;
    }
    const messages = new MessageStream(stream, {
      maxMessageBytes: MAX_ASK_BYTES,
      ...(this.#options.writeDeadlineMs === undefined
        ? {}
        : { writeDeadlineMs: this.#options.writeDeadlineMs }),
      onMessage: message => served?.peer.take(message),
      onEnd: () => {
        if (!served) return;
        this.#served.delete(served);
        served.place.release();
        served.peer.ended();
      },
    });
    // The stream may have ended before `onEnd` was set, in which case it isn't called.
    if (messages.isEnded) {
      place.release();
      return;
    }
    const peer = new ServedPeer(id, this.#options, {
      send: answer => messages.send(...encodeAnswer(answer)),
      close: () => void messages.close(),
      abort: error => messages.abort(error),
      admitted: () => served !== undefined && this.#admit(served),
    });
    served = { id, peer, place };
    this.#served.add(served);
  }

  /** @returns false where all places are taken by other admitted peers */
  #admit(served: Served): boolean {
    const { id, peer } = served;
    this.#options.node.gate.admit(id);
    const place = this.#admitted.lease(id, 1, () => peer.end(new Error('its place was needed for others')));
    if (!place) return false;
    served.place.release();
    served.place = place;
    return true;
  }
}

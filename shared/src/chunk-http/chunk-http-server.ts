import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { FairQueue, type Pacer, RefusalLimit } from '../bounded/index.ts';
import { type Chunk, type ChunkId, type ChunkStore, chunkNotFound } from '../content/index.ts';
import { rawFrame } from '../content/raw-frame.ts';
import { SitecastError } from '../errors.ts';
import { limitedServer, type ServerLimits, SharedConnections } from '../http-guards/index.ts';
import { problemResponse, toSitecastError } from '../http-problem/index.ts';
import type { MayServe } from './admission.ts';
import { answerWith, chunkRoute, type FramePieces } from './chunk-route.ts';
import { busy, PeerRequest } from './peer-request.ts';
import type { SessionSecret } from './proof.ts';
import { ChunkSessions } from './sessions.ts';

// Any machine on the LAN can send this. The worst it sends, and the bounds:
// - Connections without end, silent or slow: 256 in all, 32 from one address; the address with the most loses its oldest. The first request
//   must arrive within 10 seconds. Connections with a proven session have 256 other places, 16 for each peer.
// - Requests of a peer for everything, by any method, given up or not: one at a time on each connection. Peers take turns for the disk and
//   for the upload, in which only sent bytes count.
// - Requests without a session: each costs at most a MAC and a 401; an address that sends many is disconnected.
// - Requests of another peer's session, recorded on the way: each counter is accepted once.
// - Readers that don't read: unsent bytes are bounded, and a connection that is silent for 30 seconds is ended.
// An attacker on the way can alter answers: the requester verifies them, and bans no peer for a wrong one.

const LIMITS: ServerLimits = {
  headMs: 10_000,
  requestMs: 10_000,
  maxHeadBytes: 4 * 1024,
  keepAliveMs: 65_000,
  silenceMs: 30_000,
};
const MAX_CONNECTIONS = 256;
const MAX_CONNECTIONS_PER_ADDRESS = 32;
const MAX_PROVEN_CONNECTIONS = 256;
/** An honest peer has 6 for a session, and shortly two sessions. */
const MAX_CONNECTIONS_PER_PEER = 16;
const MAX_RESPONSE_MEMORY_BYTES = 16 * 1024 * 1024;
/** Nine in ten chunks of the default chunker are no longer than this. For longer ones a store allocates its own memory. */
const USUAL_CHUNK_BYTES = 128 * 1024;
/** How many chunks are read at a time. */
const MAX_READS = 8;
const MAX_WAITING_READS = 1024;
/** How many requests without a session are answered, for each address. */
const REFUSALS = { perS: 20, burst: 60, maxKeys: 4096 };

export interface ChunkHttpServerOptions {
  /** This machine's id. */
  readonly self: string;
  /** Gives only verified chunks. */
  readonly store: ChunkStore;
  readonly mayServe: MayServe;
  /** True while no chunks should be served. */
  readonly isBusy?: () => boolean;
  /** Limits the upload of all peers together. */
  readonly pace?: Pacer;
  readonly onServed?: (peer: string, lengthBytes: number) => void;
}

/** Serves a device's chunks over plain HTTP, with the same routes as a gateway, to peers with a session. */
export class ChunkHttpServer {
  readonly sessions: ChunkSessions;
  readonly #options: ChunkHttpServerOptions;
  readonly #server: Server;
  readonly #connections = new SharedConnections({
    max: MAX_CONNECTIONS,
    maxPerAddress: MAX_CONNECTIONS_PER_ADDRESS,
    proven: { max: MAX_PROVEN_CONNECTIONS, maxPerSender: MAX_CONNECTIONS_PER_PEER },
  });
  readonly #refusals = new RefusalLimit(REFUSALS);
  readonly #reads = new FairQueue({ maxRunning: MAX_READS, maxWaiting: MAX_WAITING_READS });
  /** Reused memory for chunks that are being sent. */
  readonly #memory: Buffer[] = [];
  #refused = 0;

  private constructor(options: ChunkHttpServerOptions) {
    this.#options = options;
    this.sessions = new ChunkSessions(options);
    const { pace } = options;
    const route = chunkRoute<PeerRequest>({
      find: (hex, requester) => this.#frameOf(hex, requester),
      ...(pace && { pace: (sentBytes, { peer, ended }) => pace.take(sentBytes, ended, peer) }),
      onAnswer: (_, sentBytes, { peer }) => {
        if (sentBytes > 0) options.onServed?.(peer, sentBytes);
      },
      asError: thrown => toSitecastError(thrown, 'device'),
      asResponse: error => problemResponse(error),
      maxMemoryBytes: MAX_RESPONSE_MEMORY_BYTES,
    });
    this.#server = limitedServer(LIMITS, (request, response) => {
      this.#admit(request, response, requester => {
        if (!route(request, response, requester)) answerWith(response, problemResponse(nothingHere(request)));
      });
    });
    this.#connections.guard(this.#server);
  }

  /**
   * @param places to listen on; tried in this order
   * @throws the system's error where none works
   */
  static async listen(
    options: ChunkHttpServerOptions,
    places: readonly { host: string; port: number }[],
  ): Promise<ChunkHttpServer> {
    const server = new ChunkHttpServer(options);
    let last: unknown = new TypeError('no place to listen on');
    for (const place of places) {
      try {
        await server.#listen(place);
        return server;
      } catch (error) {
        last = error;
      }
    }
    throw last;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** How many connections were ended because there were too many, and how many requests without a session got no answer. */
  get dropped(): number {
    return this.#connections.dropped + this.#refused;
  }

  /** How many requests wait for their chunk to be read. */
  get waiting(): number {
    return this.#reads.waiting;
  }

  /** @returns undefined for a peer that isn't served */
  openSession(peer: string, credential: Uint8Array): Promise<SessionSecret | undefined> {
    return this.sessions.open(peer, credential);
  }

  async close(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }

  async #listen({ host, port }: { host: string; port: number }): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ host, port }, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
  }

  #admit(request: IncomingMessage, response: ServerResponse, then: (requester: PeerRequest) => void): void {
    const admitted = (peer: string): void => {
      if (response.destroyed) return;
      this.#connections.prove(request.socket, peer);
      then(new PeerRequest(peer, this.#ownerOf(request), response));
    };
    try {
      const peer = this.sessions.admit(request);
      if (typeof peer === 'string') admitted(peer);
      else peer.then(admitted, (error: unknown) => this.#refuse(request, response, error));
    } catch (error) {
      this.#refuse(request, response, error);
    }
  }

  #refuse(request: IncomingMessage, response: ServerResponse, thrown: unknown): void {
    const error = toSitecastError(thrown, 'device');
    if (error.kind === 'unauthenticated' && !this.#refusals.count(this.#ownerOf(request))) {
      this.#refused += 1;
      request.socket.destroy();
      return;
    }
    // A connection takes one of the peers' places only when its peer is served.
    const connection = this.#connections.isProven(request.socket) ? { connection: 'close' } : {};
    answerWith(response, problemResponse(error, { 'www-authenticate': 'Sitecast-Session', ...connection }));
  }

  #frameOf(hex: string, requester: PeerRequest): Promise<FramePieces> {
    if (this.#options.isBusy?.()) throw busy();
    return new Promise((resolve, reject) => {
      const giveUp = (): void => reject(busy());
      const begin = (): Promise<void> => {
        requester.endWait();
        return this.#read(hex, requester).then(resolve, reject);
      };
      requester.wait(() => this.#reads.add(requester.peer, begin, giveUp), giveUp);
    });
  }

  async #read(hex: string, requester: PeerRequest): Promise<FramePieces> {
    const { into, hasRead } = this.#memoryFor(requester);
    try {
      // A read is never aborted: its memory would be reused while the disk still fills it.
      const { form, bytes } = (await this.#chunk(Buffer.from(hex, 'hex'), into)).ready();
      return form === 'frame' ? [bytes] : rawFrame(bytes);
    } finally {
      hasRead();
    }
  }

  /** Memory for one answer. It is reused when the read has ended and the answer is sent or given up. */
  #memoryFor(requester: PeerRequest): { into: Buffer; hasRead: () => void } {
    const into = this.#memory.pop() ?? Buffer.allocUnsafeSlow(USUAL_CHUNK_BYTES);
    let users = 2;
    const done = (): void => {
      users -= 1;
      if (users === 0) this.#memory.push(into);
    };
    requester.onClose(done);
    return { into, hasRead: done };
  }

  async #chunk(id: ChunkId, into: Uint8Array): Promise<Chunk> {
    try {
      return await this.#options.store.get(id, { into });
    } catch (error) {
      // If the store can't read now, or the chunk is damaged, the answer is "not found".
      if (error instanceof SitecastError) throw chunkNotFound(id, { name: 'this device' }, error);
      throw error;
    }
  }

  #ownerOf({ socket }: IncomingMessage): string {
    return this.#connections.hosts.ownerOf(socket.remoteAddress);
  }
}

function nothingHere({ url = '' }: IncomingMessage): SitecastError {
  return new SitecastError('notFound', 'SITECAST_NOT_FOUND', `there is nothing at ${url.slice(0, 200)}`);
}

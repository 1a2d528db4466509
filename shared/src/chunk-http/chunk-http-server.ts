import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import pLimit from 'p-limit';
import { type Pacer, TokenBuckets } from '../bounded/index.ts';
import {
  type Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdFromHex,
  chunkNotFound,
} from '../content/index.ts';
import { rawFrame } from '../content/raw-frame.ts';
import { SitecastError } from '../errors.ts';
import { oneAtATime, SharedConnections } from '../http-guards/index.ts';
import { problemResponse, toSitecastError } from '../http-problem/index.ts';
import type { MayServe } from './admission.ts';
import { answerWith, chunkRoute, type FramePieces } from './chunk-route.ts';
import type { SessionSecret } from './proof.ts';
import { ChunkSessions } from './sessions.ts';

// Any machine on the LAN can send this. The worst it sends, and what bounds it:
// - Connections without end, silent or slow: 256, 32 from one address; the address with the most loses its oldest. The first request has to
//   be there within 10 seconds.
// - Requests without a session: each costs a MAC at the most, and a 401; an address that sends many is disconnected.
// - Requests of another's session that it has read or copied: a counter counts once.
// - Readers that don't read: what is on its way has a bound, and a connection that is silent for 30 seconds ends.
// What comes back can be altered by whoever is between: the requester checks it, and blames nobody.

const HEADERS_TIMEOUT_MS = 10_000;
const CHECK_EVERY_MS = 2000;
const KEEP_ALIVE_MS = 65_000;
/** A connection without a byte either way, while a request is answered. */
const SILENCE_MS = 30_000;
const MAX_HEADERS_BYTES = 4 * 1024;
const MAX_CONNECTIONS = 256;
const MAX_CONNECTIONS_PER_ADDRESS = 32;
const MAX_RESPONSE_MEMORY_BYTES = 16 * 1024 * 1024;
const READ_MS = 15_000;
/** Nine in ten chunks of the default chunker are no longer; a store makes memory of its own for the others. */
const USUAL_CHUNK_BYTES = 128 * 1024;
/** Chunks that are read at one time. */
const MAX_READS = 8;
/** Requests without a session that are answered, of one address. */
const REFUSALS = { perS: 20, burst: 60 };
const MAX_ADDRESSES = 4096;

export interface ChunkHttpServerOptions {
  /** This machine's id. */
  readonly self: string;
  /** Gives only verified chunks. */
  readonly store: ChunkStore;
  readonly mayServe: MayServe;
  /** True while nothing is to be handed out. */
  readonly isBusy?: () => boolean;
  /** The upload's rate, for all peers together. */
  readonly pace?: Pacer;
  readonly onServed?: (peer: string, lengthBytes: number) => void;
}

/** A device's chunks over plain HTTP, by the same routes as a gateway's, for peers with a session. */
export class ChunkHttpServer {
  readonly sessions: ChunkSessions;
  readonly #options: ChunkHttpServerOptions;
  readonly #server: Server;
  readonly #connections = new SharedConnections({
    max: MAX_CONNECTIONS,
    maxPerAddress: MAX_CONNECTIONS_PER_ADDRESS,
  });
  readonly #refusals = new TokenBuckets({
    ...REFUSALS,
    maxKeys: MAX_ADDRESSES,
    now: () => performance.now(),
  });
  readonly #read = pLimit(MAX_READS);
  readonly #peers = new WeakMap<IncomingMessage, string>();
  /** For chunks on their way out, used again. */
  readonly #memory: Buffer[] = [];
  /** By request whose answer takes some: is called once that is sent, or given up. */
  readonly #closing = new WeakMap<IncomingMessage, () => void>();
  #refused = 0;

  private constructor(options: ChunkHttpServerOptions) {
    this.#options = options;
    this.sessions = new ChunkSessions(options);
    const route = chunkRoute({
      find: (hex, request) => this.#frameOf(hex, request),
      onAnswer: () => {},
      asError: thrown => toSitecastError(thrown, 'device'),
      asResponse: error => problemResponse(error),
      ownerOf: request => this.#ownerOf(request),
      maxMemoryBytes: MAX_RESPONSE_MEMORY_BYTES,
    });
    const settings = {
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: HEADERS_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connectionsCheckingInterval: CHECK_EVERY_MS,
      maxHeaderSize: MAX_HEADERS_BYTES,
      noDelay: true,
    };
    this.#server = createServer(
      settings,
      oneAtATime((request, response) => {
        this.#admit(request, response, () => {
          response.once('close', () => this.#closing.get(request)?.());
          if (!route(request, response)) answerWith(response, problemResponse(nothingHere(request)));
        });
      }),
    );
    this.#server.timeout = SILENCE_MS;
    this.#connections.guard(this.#server);
  }

  /**
   * @param places in the order in which they are tried
   * @throws the system's error where none of them can be listened on
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

  /** Connections that were ended because there were too many, and requests without a session that got no answer. */
  get dropped(): number {
    return this.#connections.dropped + this.#refused;
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

  #admit(request: IncomingMessage, response: ServerResponse, then: () => void): void {
    const admitted = (peer: string): void => {
      this.#peers.set(request, peer);
      then();
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
    if (error.kind === 'unauthenticated' && !this.#refusals.take(this.#ownerOf(request))) {
      this.#refused += 1;
      request.socket.destroy();
      return;
    }
    answerWith(response, problemResponse(error, { 'www-authenticate': 'Sitecast-Session' }));
  }

  async #frameOf(hex: string, request: IncomingMessage): Promise<FramePieces> {
    const { isBusy, pace, onServed } = this.#options;
    if (isBusy?.()) throw busy();
    const signal = AbortSignal.timeout(READ_MS);
    const release = this.#memoryFor(request);
    try {
      const { into } = release;
      const chunk = await this.#read(() => this.#chunk(chunkIdFromHex(hex), { signal, into }));
      const { form, bytes } = chunk.ready();
      await pace?.take(bytes.length, signal);
      onServed?.(this.#peers.get(request) ?? '', bytes.length);
      return form === 'frame' ? [bytes] : rawFrame(bytes);
    } finally {
      release.hasRead();
    }
  }

  /** Memory for one answer. It is used again once nothing is read into it any more, and the answer is sent or given up. */
  #memoryFor(request: IncomingMessage): { into: Buffer; hasRead: () => void } {
    const into = this.#memory.pop() ?? Buffer.allocUnsafeSlow(USUAL_CHUNK_BYTES);
    let users = 2;
    const done = (): void => {
      users -= 1;
      if (users === 0) this.#memory.push(into);
    };
    this.#closing.set(request, done);
    return { into, hasRead: done };
  }

  async #chunk(id: ChunkId, asked: ChunkRequest): Promise<Chunk> {
    try {
      return await this.#options.store.get(id, asked);
    } catch (error) {
      // A store that can't read now, or whose chunk is damaged, has nothing to hand out.
      if (error instanceof SitecastError) throw chunkNotFound(id, { name: 'this device' }, error);
      throw error;
    }
  }

  #ownerOf({ socket }: IncomingMessage): string {
    return this.#connections.hosts.ownerOf(socket.remoteAddress);
  }
}

function busy(): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_BUSY', 'this device hands out nothing at present');
}

function nothingHere({ url = '' }: IncomingMessage): SitecastError {
  return new SitecastError('notFound', 'SITECAST_NOT_FOUND', `there is nothing at ${url.slice(0, 200)}`);
}

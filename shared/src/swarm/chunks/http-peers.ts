import { isIPv6 } from 'node:net';
import { peerIdFromString } from '@libp2p/peer-id';
import { lruCache } from '../../bounded/index.ts';
import { prove } from '../../chunk-http/index.ts';
import { type Chunk, type ChunkId, type ChunkRequest, HttpStore } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import { hostOf } from '../inbound-gate.ts';
import type { SwarmNode } from '../node.ts';
import { MAX_HEDGES, MAX_PEER_SLOTS } from '../schedule/slots.ts';
import type { PeerStore } from './peer-store.ts';
import { askForSession, type PeerSession } from './session-protocol.ts';

// Whoever is between this machine and a peer can alter plain HTTP. The worst that comes of it: a request that is answered wrongly, and is
// repeated over the authenticated stream; then that address rests. Nobody is blamed for what came over plain HTTP.

/** An address that gave wrong bytes, no answer, or errors that weren't so, isn't asked over plain HTTP for so long. */
const REST_MS = 5 * 60_000;
const MAX_RESTING = 1024;
/** Errors in a row over plain HTTP, of any status, after each of which the stream gave the chunk. Then the address rests, too. */
const MAX_CONTRADICTED = 3;
/** A peer that gives no session is asked for one again after so long. */
const ASK_AGAIN_MS = 60_000;
/** A session that is refused sooner than that isn't renewed at once. */
const RENEW_AFTER_MS = 10_000;
const SILENCE_MS = 5000;
const DEADLINE_MS = 20_000;

interface OpenSession {
  readonly address: string;
  readonly store: HttpStore;
  readonly openedMs: number;
}

interface HttpPeersOptions {
  readonly node: SwarmNode;
  /** An address gave wrong bytes, or a broken answer, over plain HTTP. Default: nobody is told. */
  readonly onRest?: (address: string, error: SitecastError) => void;
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number;
}

/** A peer over its stream. */
type AskedByStream = Pick<PeerStore, 'name' | 'peer' | 'get'>;

/** Asks peers for chunks over plain HTTP where they serve that, else over their streams. */
export class HttpPeers {
  readonly #options: HttpPeersOptions;
  readonly #now: () => number;
  readonly #resting;

  constructor(options: HttpPeersOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#resting = lruCache<string, true>({ max: MAX_RESTING, ttl: REST_MS, now: this.#now });
  }

  /** @param store the same peer, over its stream @param credential this machine's signed assignment */
  peer(store: AskedByStream, credential: Uint8Array | undefined): HttpPeer {
    const { node } = this.#options;
    return new HttpPeer(store, {
      now: this.#now,
      open: async () => {
        const session = await askForSession(node, store.peer, credential ?? new Uint8Array(0));
        const host = session && hostOfPeer(node, store.peer);
        return host === undefined || !session
          ? undefined
          : openSession({ host, session, peer: store.peer, nowMs: this.#now() });
      },
      isResting: address => this.#resting.has(address),
      rest: (address, error) => {
        this.#resting.set(address, true);
        this.#options.onRest?.(address, error);
      },
    });
  }
}

interface HttpPeerPorts {
  readonly now: () => number;
  /** @returns undefined where the peer gives none */
  readonly open: () => Promise<OpenSession | undefined>;
  readonly isResting: (address: string) => boolean;
  readonly rest: (address: string, error: SitecastError) => void;
}

/** One peer: over plain HTTP, and over its stream where that fails. */
export class HttpPeer {
  readonly name: string;
  readonly peer: string;
  readonly #store: AskedByStream;
  readonly #ports: HttpPeerPorts;
  #session: Promise<OpenSession | undefined> | undefined;
  #askAgainMs = Number.NEGATIVE_INFINITY;
  /** Errors in a row over plain HTTP that the stream contradicted. They outlive a session. */
  #contradicted = 0;

  constructor(store: AskedByStream, ports: HttpPeerPorts) {
    this.#store = store;
    this.#ports = ports;
    this.name = store.name;
    this.peer = store.peer;
  }

  /**
   * The chunk, verified.
   * @throws as `PeerStore`
   */
  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    request.signal?.throwIfAborted();
    const session = await this.#opened();
    request.signal?.throwIfAborted();
    if (!session) return this.#store.get(id, request);
    const got = await this.#overHttp(session, id, request);
    if (!(got instanceof SitecastError)) return got;
    const chunk = await this.#store.get(id, request);
    this.#contradict(session, got);
    return chunk;
  }

  /** Closes the kept connections. */
  close(): void {
    void this.#session?.then(session => session?.store.close());
    this.#session = undefined;
    this.#askAgainMs = Number.POSITIVE_INFINITY;
  }

  async #opened(): Promise<OpenSession | undefined> {
    if (!this.#session) {
      if (this.#ports.now() < this.#askAgainMs) return undefined;
      // An earlier release doesn't know the protocol; another peer may have left, or have no HTTP server.
      this.#session = this.#ports.open().catch(() => undefined);
    }
    const session = await this.#session;
    if (session) return this.#ports.isResting(session.address) ? undefined : session;
    this.#session = undefined;
    this.#askAgainMs = Math.max(this.#askAgainMs, this.#ports.now() + ASK_AGAIN_MS);
    return undefined;
  }

  /** @returns an error where the stream is to be asked */
  async #overHttp(session: OpenSession, id: ChunkId, request: ChunkRequest): Promise<Chunk | SitecastError> {
    try {
      const chunk = (await session.store.get(id, request)).verify(request.lengthBytes, request.into);
      this.#contradicted = 0;
      return chunk;
    } catch (error) {
      request.signal?.throwIfAborted();
      if (!(error instanceof SitecastError)) throw error;
      this.#failed(session, error);
      return error;
    }
  }

  /** The stream gave what an error over plain HTTP refused: one may be chance, several are somebody between. */
  #contradict({ address }: OpenSession, error: SitecastError): void {
    this.#contradicted += 1;
    if (this.#contradicted < MAX_CONTRADICTED) return;
    this.#contradicted = 0;
    if (!this.#ports.isResting(address)) this.#ports.rest(address, error);
  }

  #failed(session: OpenSession, error: SitecastError): void {
    const { statusCode } = error.data;
    if (statusCode === 401) this.#refused(session);
    // It lacks the chunk, or is busy: so the stream will say, too, unless somebody else said it (`#contradict`).
    else if (error.code !== 'SITECAST_CHUNK_NOT_FOUND' && typeof statusCode !== 'number')
      this.#ports.rest(session.address, error);
  }

  /** The peer was started anew, or this machine is no longer served. */
  #refused(session: OpenSession): void {
    const nowMs = this.#ports.now();
    void this.#session?.then(current => {
      if (current !== session) return;
      this.#session = undefined;
      session.store.close();
      if (nowMs - session.openedMs < RENEW_AFTER_MS) this.#askAgainMs = nowMs + ASK_AGAIN_MS;
    });
  }
}

/** Where the connection to the peer leads: what a peer says of its address isn't believed. */
function hostOfPeer(node: SwarmNode, peer: string): string | undefined {
  const [connection] = node.libp2p.getConnections(peerIdFromString(peer));
  return connection && hostOf(connection.remoteAddr.toString());
}

function openSession({
  host,
  session,
  peer,
  nowMs,
}: {
  host: string;
  session: PeerSession;
  peer: string;
  nowMs: number;
}): OpenSession {
  const address = `${isIPv6(host) ? `[${host}]` : host}:${session.port}`;
  let counter = 0;
  const store = new HttpStore(`http://${address}/chunks`, {
    silenceMs: SILENCE_MS,
    deadlineMs: DEADLINE_MS,
    sendsRaw: true,
    connections: MAX_PEER_SLOTS + MAX_HEDGES,
    authorize: (method, path) => {
      counter += 1;
      return { authorization: prove(session.secret, { method, path, counter, server: peer }) };
    },
  });
  return { address, store, openedMs: nowMs };
}

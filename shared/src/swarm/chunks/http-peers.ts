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

// A machine between this one and a peer can alter plain HTTP. The worst result is a request with a wrong answer, which is repeated over the
// authenticated stream; that address then isn't asked for a while. No peer is banned for answers over plain HTTP.

/** How long an address isn't asked over plain HTTP after wrong bytes, no answer, or errors that the stream contradicted. */
const REST_MS = 5 * 60_000;
const MAX_RESTING = 1024;
/**
 * After this many errors in a row over plain HTTP, of any status, with the chunk then received over the stream, the address isn't asked
 * for a while either.
 */
const MAX_CONTRADICTED = 3;
/** How long to wait before a peer that gave no session is asked for one again. */
const ASK_AGAIN_MS = 60_000;
/** A session that is refused within this time isn't renewed at once. */
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
  /** Called when an address has sent wrong bytes or a broken answer over plain HTTP. */
  readonly onRest?: (address: string, error: SitecastError) => void;
  /** Milliseconds on a clock that never goes back. */
  readonly now?: () => number;
}

/** A peer, reached over its stream. */
type AskedByStream = Pick<PeerStore, 'name' | 'peer' | 'get'>;

/** Requests chunks from peers over plain HTTP where they serve that, otherwise over their streams. */
export class HttpPeers {
  readonly #options: HttpPeersOptions;
  readonly #now: () => number;
  readonly #resting;

  constructor(options: HttpPeersOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#resting = lruCache<string, true>({ max: MAX_RESTING, ttl: REST_MS, now: this.#now });
  }

  /** @param store reaches the same peer over its stream @param credential this machine's signed assignment */
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
  /** @returns undefined where the peer gives no session */
  readonly open: () => Promise<OpenSession | undefined>;
  readonly isResting: (address: string) => boolean;
  readonly rest: (address: string, error: SitecastError) => void;
}

/** One peer: reached over plain HTTP, and over its stream where that fails. */
export class HttpPeer {
  readonly name: string;
  readonly peer: string;
  readonly #store: AskedByStream;
  readonly #ports: HttpPeerPorts;
  #session: Promise<OpenSession | undefined> | undefined;
  #askAgainMs = Number.NEGATIVE_INFINITY;
  /** How many errors in a row over plain HTTP the stream has contradicted. The count outlives a session. */
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
      // A peer of an earlier release doesn't know the protocol; another may have left, or have no HTTP server.
      this.#session = this.#ports.open().catch(() => undefined);
    }
    const session = await this.#session;
    if (session) return this.#ports.isResting(session.address) ? undefined : session;
    this.#session = undefined;
    this.#askAgainMs = Math.max(this.#askAgainMs, this.#ports.now() + ASK_AGAIN_MS);
    return undefined;
  }

  /** @returns the error after which the stream should be asked */
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

  /**
   * Counts an error over plain HTTP for a chunk that the stream then gave. One may be chance; several mean that someone on the way
   * answers.
   */
  #contradict({ address }: OpenSession, error: SitecastError): void {
    this.#contradicted += 1;
    if (this.#contradicted < MAX_CONTRADICTED) return;
    this.#contradicted = 0;
    if (!this.#ports.isResting(address)) this.#ports.rest(address, error);
  }

  #failed(session: OpenSession, error: SitecastError): void {
    const { statusCode } = error.data;
    if (statusCode === 401) this.#refused(session);
    // The peer lacks the chunk or is busy. The stream will say the same, unless someone on the way has answered (`#contradict`).
    else if (error.code !== 'SITECAST_CHUNK_NOT_FOUND' && typeof statusCode !== 'number')
      this.#ports.rest(session.address, error);
  }

  /** Renews the session: the peer was restarted, or doesn't serve this machine any more. */
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

/** The address to which the peer's connection leads. A peer's own statement of its address isn't used. */
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

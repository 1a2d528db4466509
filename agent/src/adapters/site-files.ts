import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { FairPool, lruCache, type Pacer, RefusalLimit } from '@sitecast/shared/bounded';
import { SitecastError } from '@sitecast/shared/errors';
import { showing, shownIn } from '@sitecast/shared/fleet';
import { HttpClient } from '@sitecast/shared/outbound';
import { limitedServer, repositoryOnly, type ServerLimits } from '@sitecast/shared/http-guards';
import { HttpFetcher } from '@sitecast/shared/trust';
import {
  connectionsToPeer,
  connectToPeer,
  peerOf,
  PeerStore,
  serveHttpStreams,
  type SwarmNode,
  urlOfPeer,
} from '@sitecast/shared/swarm';
import type { RepositorySource } from '@sitecast/shared/upstream';
import type { FoundPeer, HeldFiles } from '../ports.ts';

// Any machine on the LAN can send this, with any number of keys. The worst messages, and their bounds:
// - Silent streams, endless heads: each address has few streams (`serveHttpStreams`), and the server has timeouts.
// - Assignments without end, each with a signature to verify: an invalid one ends the stream, and a peer has few tries.
// - A stolen device that wasn't revoked may read what every device of the site may read. It requests the longest files, and reads slowly: a
//   peer has two answers at a time, all peers together eight, each must be read within a minute, and all count in `--max-upload`.

const LIMITS: ServerLimits = {
  headMs: 10_000,
  requestMs: 15_000,
  maxHeadBytes: 16 * 1024,
  keepAliveMs: 60_000,
  silenceMs: 65_000,
};
/** How many answers may be sent at the same time: each is in memory as a whole. */
const MAX_ANSWERS = 8;
const MAX_ANSWERS_PER_PEER = 2;
const ANSWER_WITHIN_MS = 60_000;
/** How many requests of one peer may be refused. */
const REFUSALS = { perS: 0.2, burst: 5, maxKeys: 1000 };
/** How many machines are asked: as many as are known. */
const MAX_SOURCES = 320;
/** Bounds for fetching one file, on a LAN. */
const FETCH_TIMEOUTS = { timeoutMs: 60_000, idleTimeoutMs: 5000 };
const CONNECT_WITHIN_MS = 5000;
/** The id for a request where only the fact of an answer matters. */
const NO_CHUNK = Buffer.alloc(32);

interface SiteFilesOptions {
  node: SwarmNode;
  files: HeldFiles;
  credential: () => Uint8Array | undefined;
  mayServe: (id: string, credential: Uint8Array) => boolean;
  isBusy: () => boolean;
  pace: Pacer | undefined;
}

/** Exchanges the repository's signed files between the devices of a site: HTTP over the connections that are used for chunks. */
export class SiteFiles {
  readonly #options: SiteFilesOptions;
  readonly #server: Server;
  readonly #answers = new FairPool({ max: MAX_ANSWERS, maxPerOwner: MAX_ANSWERS_PER_PEER });
  readonly #refusals = new RefusalLimit(REFUSALS);
  readonly #sources = lruCache<string, { addresses: string; source: RepositorySource }>({ max: MAX_SOURCES });
  readonly #stop = new AbortController();

  constructor(options: SiteFilesOptions) {
    this.#options = options;
    const answer = (request: IncomingMessage, response: ServerResponse): void =>
      void this.#answer(request, response);
    this.#server = limitedServer(LIMITS, repositoryOnly(answer));
  }

  /** Answers peers from now on. */
  async start(): Promise<void> {
    await serveHttpStreams(this.#options.node, this.#server, { isOpen: true });
  }

  stop(): void {
    this.#stop.abort();
    this.#server.close();
  }

  /** The files that a peer may have. Nothing is sent before the first file is requested. */
  sourceAt({ id, addresses }: FoundPeer): RepositorySource {
    const key = addresses.join(' ');
    const known = this.#sources.get(id);
    if (known?.addresses === key) return known.source;
    const source = this.#openSource({ id, addresses });
    this.#sources.set(id, { addresses: key, source });
    return source;
  }

  #openSource({ id, addresses }: FoundPeer): RepositorySource {
    const { node, credential } = this.#options;
    const url = urlOfPeer(id);
    const connections = connectionsToPeer(node, id);
    const below = (folder: string) => ({
      fetch: async (path: string, options: Parameters<HttpFetcher['fetch']>[1]) => {
        await this.#connect({ id, addresses }, options.signal);
        // Read again, since the assignment may have changed.
        const fetching = { ...FETCH_TIMEOUTS, headers: showing(credential()), connections };
        return new HttpFetcher(`${url}/${folder}`, fetching).fetch(path, options);
      },
    });
    return { url, metadata: below('metadata'), targets: below('targets') };
  }

  /**
   * Whether a machine answers now: over HTTP, or, if it is of an earlier release, about a chunk. A machine that reboots, or whose new slot
   * is on trial, answers that it is busy. If it wasn't connected before, its connection is closed again.
   * @throws the signal's reason
   */
  async isUp(peer: FoundPeer, signal: AbortSignal): Promise<boolean> {
    const { node, credential } = this.#options;
    const wasConnected = node.isConnected(peer.id);
    try {
      await this.#connect(peer, signal);
      const within = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_WITHIN_MS)]);
      const asking = { headers: showing(credential()), signal: within };
      const client = new HttpClient(`${urlOfPeer(peer.id)}/`, {
        connections: connectionsToPeer(node, peer.id),
        code: 'SITECAST_PEER_UNREACHABLE',
      });
      const status = await client
        .exchange('metadata/timestamp.json', asking, async answer => answer.status)
        // A machine of an earlier release doesn't speak HTTP, so it is asked about a chunk.
        .catch(() => undefined);
      signal.throwIfAborted();
      return status === undefined ? await this.#answersAboutChunks(peer.id, signal) : status < 500;
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof SitecastError)) throw error;
      return false;
    } finally {
      // The answer counts, however the connection ends.
      if (!wasConnected) await node.hangUp(peer.id).catch(() => {});
    }
  }

  /** @throws SITECAST_STORE_UNREACHABLE where it doesn't answer; the signal's reason */
  async #answersAboutChunks(peer: string, signal: AbortSignal): Promise<boolean> {
    const { node, credential } = this.#options;
    const shown = credential();
    const store = new PeerStore({
      node,
      peer,
      ...(shown && { credential: shown }),
      deadlineMs: CONNECT_WITHIN_MS,
    });
    try {
      await store.has(NO_CHUNK, { signal });
      return true;
    } finally {
      store.close();
    }
  }

  /** @throws SITECAST_PEER_UNREACHABLE; the signal's reason */
  async #connect({ id, addresses }: FoundPeer, signal: AbortSignal | undefined): Promise<void> {
    const late = AbortSignal.timeout(CONNECT_WITHIN_MS);
    const signals = signal ? [signal, late, this.#stop.signal] : [late, this.#stop.signal];
    try {
      await connectToPeer(this.#options.node, id, addresses, AbortSignal.any(signals));
    } catch (cause) {
      signal?.throwIfAborted();
      if (cause instanceof SitecastError) throw cause;
      const message = `${id} could not be reached within ${CONNECT_WITHIN_MS / 1000} s`;
      throw new SitecastError('unreachable', 'SITECAST_PEER_UNREACHABLE', message, { cause });
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const end = (status: number): void => {
      response.writeHead(status, { 'content-length': 0, connection: 'close' }).end();
    };
    const peer = peerOf(request.socket);
    if (peer === undefined || !this.#isMember(peer, request)) return end(403);
    if (request.method !== 'GET') return end(405);
    if (this.#options.isBusy()) return end(503);
    this.#options.node.gate.admit(peer);
    const lease = this.#answers.lease(peer, 1, () => response.destroy());
    if (!lease) return end(503);
    const late = setTimeout(() => response.destroy(), ANSWER_WITHIN_MS);
    const closed = new AbortController();
    response.once('close', () => {
      closed.abort();
      clearTimeout(late);
      lease.release();
    });
    try {
      const bytes = await this.#bytesOf(request.url ?? '');
      if (!bytes) {
        response.writeHead(404, { 'content-length': 0 }).end();
        return;
      }
      await this.#options.pace?.take(bytes.length, AbortSignal.any([this.#stop.signal, closed.signal]), peer);
      response
        .writeHead(200, { 'content-length': bytes.length, 'content-type': 'application/octet-stream' })
        .end(bytes);
    } catch {
      // The disk can't be read, or this device stops. The peer will ask another one.
      response.destroy();
    }
  }

  #bytesOf(url: string): Promise<Uint8Array | undefined> {
    const [, folder, ...rest] = url.split('/');
    const { files } = this.#options;
    return folder === 'metadata' ? files.metadata(rest.join('/')) : files.target(rest.join('/'));
  }

  #isMember(peer: string, { headers }: IncomingMessage): boolean {
    const credential = shownIn(headers);
    const mayServe = () => credential !== undefined && this.#options.mayServe(peer, credential);
    return this.#refusals.check(peer, mayServe) === 'admitted';
  }
}

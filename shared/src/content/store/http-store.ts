import { SitecastError } from '../../errors.ts';
import { problemOf } from '../../http-problem/index.ts';
import { type Connections, type HttpAnswer, HttpClient, metered, readBounded } from '../../outbound/index.ts';
import { Chunk } from '../chunk.ts';
import { type ChunkId, chunkIdToHex, chunkPath } from '../chunk-id.ts';
import { longestFrameBytes, MAX_FRAME_BYTES } from '../limits.ts';
import { type ChunkRequest, type ChunkStore, chunkNotFound, frameTooLarge } from './chunk-store.ts';

const DEFAULT_SILENCE_MS = 30_000;
const DEFAULT_DEADLINE_MS = 120_000;
const DEFAULT_CONNECTIONS = 8;
/** An error page up to this length is read to its end, so that the connection can be used again. */
const MAX_DISCARDED_BYTES = 64 * 1024;
/** How many characters of each text in a server's error are used. */
const MAX_SAID_CHARS = 400;

export interface HttpStoreOptions {
  /** Gives up when no byte arrives for this long, in ms. */
  readonly silenceMs?: number;
  /** Gives up a request after this long, in ms, even if bytes keep arriving; waiting for a free connection doesn't count. */
  readonly deadlineMs?: number;
  /** The most connections at the same time; further requests wait. */
  readonly connections?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Whether the server sends chunks in plain form: then they are read directly into a request's `into`. */
  readonly sendsRaw?: boolean;
  /** Returns headers for one request. @param path as in the request line */
  readonly authorize?: (method: string, path: string) => Readonly<Record<string, string>>;
  /** Default: no proxies, Node's authorities. */
  readonly via?: Connections;
  /** Awaited after each part of a chunk, before the next is read, which slows the sender down. */
  readonly pace?: (lengthBytes: number, signal?: AbortSignal) => Promise<void>;
}

/**
 * Chunks behind a URL, in casync's layout: an origin, a gateway, any web server over a store's folder. Reads no more than
 * a chunk's frame can have, and follows no redirect.
 */
export class HttpStore implements ChunkStore {
  readonly name: string;
  readonly #options: HttpStoreOptions;
  readonly #http: HttpClient;

  /**
   * @param base `http:`, `https:` or `libp2p:`, such as `http://gateway:7401/chunks`
   * @throws SITECAST_STORE_URL
   */
  constructor(base: string, options: HttpStoreOptions = {}) {
    const { protocol, host, pathname, href } = parseBase(base);
    // Not its `origin`, which is "null" for libp2p.
    this.name = `${protocol}//${host}${pathname}`;
    this.#options = options;
    this.#http = new HttpClient(href, {
      connections: options.via,
      maxSockets: options.connections ?? DEFAULT_CONNECTIONS,
      ...(options.headers && { headers: options.headers }),
      code: 'SITECAST_STORE_UNREACHABLE',
      isTriedAgain: true,
      subject: `${this.name} gave no whole answer`,
    });
  }

  async has(id: ChunkId, request: ChunkRequest = {}): Promise<boolean> {
    return this.#exchange('HEAD', id, request, async ({ status, body }) => {
      await readBounded(body, MAX_DISCARDED_BYTES);
      if (isAbsent(status)) return false;
      this.#demandOk(id, status);
      return true;
    });
  }

  /**
   * How long the chunk's frame is, according to the server (RFC 9110, 8.6).
   * @returns undefined where it lacks the chunk, or doesn't say
   * @throws SITECAST_STORE_UNREACHABLE; the reason of `signal`
   */
  async frameBytes(id: ChunkId, signal?: AbortSignal): Promise<number | undefined> {
    return this.#exchange('HEAD', id, signal ? { signal } : {}, async ({ status, headers, body }) => {
      await readBounded(body, MAX_DISCARDED_BYTES);
      if (isAbsent(status)) return undefined;
      this.#demandOk(id, status);
      const length = headers['content-length'] ?? '';
      return /^\d{1,9}$/.test(length) ? Number(length) : undefined;
    });
  }

  /** With `into` and the chunk's length, the chunk is verified. @throws SITECAST_CHUNK_MISMATCH in that case, too */
  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    const { lengthBytes, onSent } = request;
    const longestBytes = longestOf(lengthBytes);
    // A caller that pays for bytes has reserved as many as a frame can have.
    const discardedBytes = Math.min(MAX_DISCARDED_BYTES, onSent ? longestBytes : MAX_DISCARDED_BYTES);
    return this.#exchange('GET', id, request, async answer => {
      const { status } = answer;
      const body = metered(answer, status === 200 ? longestBytes : discardedBytes, request.onSent);
      // An error page is read to its end so that the connection can be used again; a long one ends the connection.
      const page = status === 200 ? undefined : await readBounded(body, discardedBytes);
      if (isAbsent(status)) throw chunkNotFound(id, this);
      this.#demandOk(id, status, page);
      const pace = (lengthBytes: number) => this.#options.pace?.(lengthBytes, request.signal);
      const frame = await readBounded(body, longestBytes, pace);
      if (!frame) throw frameTooLarge(id, undefined, longestBytes);
      // Bytes in the connection's own memory must be copied.
      return request.into && lengthBytes !== undefined
        ? Chunk.verified(id, frame, lengthBytes, request.into)
        : Chunk.fromFrame(id, Buffer.from(frame));
    });
  }

  /** Closes the connections that are kept open. */
  close(): void {
    this.#http.close();
  }

  #exchange<T>(
    method: 'GET' | 'HEAD',
    id: ChunkId,
    { signal, headers, onSent, lengthBytes, into }: ChunkRequest,
    read: (answer: HttpAnswer) => Promise<T>,
  ): Promise<T> {
    const { silenceMs = DEFAULT_SILENCE_MS, deadlineMs = DEFAULT_DEADLINE_MS } = this.#options;
    const data = { store: this.name, id: chunkIdToHex(id) };
    const isPaid = onSent !== undefined;
    const longestBytes = longestOf(lengthBytes);
    const path = chunkPath(id);
    // If the sender is slowed down, each part must be seen.
    const bulkBytes = this.#options.pace ? undefined : longestBytes;
    const memory = this.#options.sendsRaw ? into : undefined;
    const onDropped = onSent && ((dropped: number) => onSent(Math.min(dropped, longestBytes)));
    const asked = { method, signal, silenceMs, deadlineMs, data, isPaid, bulkBytes, onDropped, memory };
    const all = { ...headers, ...this.#options.authorize?.(method, this.#http.urlOf(path).pathname) };
    return this.#http.exchange(path, { ...asked, headers: all }, read);
  }

  /** @param page the body that was sent instead of the chunk */
  #demandOk(id: ChunkId, statusCode: number, page?: Uint8Array): void {
    if (statusCode === 200) return;
    const said = problemOf(page, MAX_SAID_CHARS);
    const { detail, hint } = said ?? {};
    const why = said && ` (${said.code}${detail === undefined ? '' : `, ${detail}`})`;
    const message = `${this.name}${chunkPath(id)} answered with status ${statusCode}${why ?? ''}`;
    throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', message, {
      ...(hint !== undefined && { hint }),
      data: { store: this.name, id: chunkIdToHex(id), statusCode, ...(said && { said }) },
    });
  }
}

/** The longest frame of a chunk of this length. */
function longestOf(lengthBytes: number | undefined): number {
  return lengthBytes === undefined ? MAX_FRAME_BYTES : longestFrameBytes(lengthBytes);
}

/** The last one needs connections of its own (`Connections.through`). */
const PROTOCOLS = ['http:', 'https:', 'libp2p:'];

function parseBase(base: string): URL {
  const url = URL.canParse(base) ? new URL(base) : undefined;
  if (url === undefined || !PROTOCOLS.includes(url.protocol))
    throw new SitecastError('badInput', 'SITECAST_STORE_URL', `not the URL of a chunk store: ${base}`, {
      hint: 'It begins with http:// or https://.',
    });
  url.search = '';
  url.hash = '';
  // Without the slash the last folder would be replaced by the chunk's path, not followed by it.
  if (!url.pathname.endsWith('/')) url.pathname += '/';
  return url;
}

function isAbsent(status: number): boolean {
  return status === 404 || status === 410;
}

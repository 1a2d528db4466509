import type * as http from 'node:http';
import { isSystemError, SitecastError } from '../../errors.ts';
import { Connections, noAnswer, type Pool } from '../../outbound/index.ts';
import { Chunk } from '../chunk.ts';
import { type ChunkId, chunkIdToHex, chunkPath } from '../chunk-id.ts';
import { MAX_FRAME_BYTES } from '../limits.ts';
import { type ChunkRequest, type ChunkStore, chunkNotFound, frameTooLarge } from './chunk-store.ts';

const DEFAULT_SILENCE_MS = 30_000;
const DEFAULT_DEADLINE_MS = 120_000;
const DEFAULT_CONNECTIONS = 8;
/** An error page up to this length is read to its end, so that the connection can be used again. */
const MAX_DISCARDED_BYTES = 64 * 1024;

type Reader<T> = (response: http.IncomingMessage) => Promise<T>;

export interface HttpStoreOptions {
  /** Gives up when nothing comes for so long, also while connecting. */
  readonly silenceMs?: number;
  /** Gives up a request after so long, however steadily its bytes drip; waiting for a free connection doesn't count. */
  readonly deadlineMs?: number;
  /** Most connections at once; further requests wait. */
  readonly connections?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Through which proxies, and trusting whom; default: none. */
  readonly via?: Connections;
  /** Awaited after each piece of a chunk, before the next is read: slows the sender down. */
  readonly pace?: (lengthBytes: number, signal?: AbortSignal) => Promise<void>;
}

/**
 * Chunks behind a URL, in casync's layout: an origin, a gateway, any web server over a store's folder. Reads no more than
 * a chunk's frame can have, and follows no redirect.
 */
export class HttpStore implements ChunkStore {
  readonly name: string;
  readonly #base: URL;
  readonly #options: HttpStoreOptions;
  readonly #via: Connections;
  readonly #pool: Pool;

  /**
   * @param base `http:` or `https:`, such as `http://gateway:7401/chunks`
   * @throws SITECAST_STORE_URL
   */
  constructor(base: string, options: HttpStoreOptions = {}) {
    this.#base = parseBase(base);
    this.name = `${this.#base.origin}${this.#base.pathname}`;
    this.#options = options;
    this.#via = options.via ?? Connections.direct;
    this.#pool = this.#via.pool({ maxSockets: options.connections ?? DEFAULT_CONNECTIONS });
  }

  async has(id: ChunkId, request: ChunkRequest = {}): Promise<boolean> {
    return this.#exchange('HEAD', id, request, async response => {
      await discard(response);
      if (isAbsent(response)) return false;
      this.#demandOk(id, response);
      return true;
    });
  }

  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    return this.#exchange('GET', id, request, async response => {
      if (response.statusCode !== 200) await discard(response);
      if (isAbsent(response)) throw chunkNotFound(id, this);
      this.#demandOk(id, response);
      return Chunk.fromFrame(
        id,
        await readFrame(id, response, piece => this.#options.pace?.(piece, request.signal)),
      );
    });
  }

  /** Closes the connections that are kept open. */
  close(): void {
    this.#pool.close();
  }

  /** One request and its answer, under the silence limit, the deadline and the caller's signal. */
  async #exchange<T>(method: string, id: ChunkId, { signal }: ChunkRequest, read: Reader<T>): Promise<T> {
    for (let isRetry = false; ; isRetry = true) {
      signal?.throwIfAborted();
      const request = this.#pool.request(new URL(chunkPath(id), this.#base), {
        method,
        headers: { ...this.#options.headers },
      });
      try {
        return await this.#limited(request, signal, async () => read(await answerOf(request)));
      } catch (error) {
        request.destroy();
        signal?.throwIfAborted();
        if (error instanceof SitecastError) throw error;
        // The server had closed a connection that was kept open, just as it was used again: that says nothing about it.
        if (!isRetry && request.reusedSocket && isSystemError(error, 'ECONNRESET', 'EPIPE')) continue;
        throw noAnswer(error, this.#base, {
          code: 'SITECAST_STORE_UNREACHABLE',
          connections: this.#via,
          isTriedAgain: true,
          subject: `${this.name} gave no whole answer`,
          data: { store: this.name, id: chunkIdToHex(id) },
        });
      }
    }
  }

  async #limited<T>(
    request: http.ClientRequest,
    signal: AbortSignal | undefined,
    act: () => Promise<T>,
  ): Promise<T> {
    const { silenceMs = DEFAULT_SILENCE_MS, deadlineMs = DEFAULT_DEADLINE_MS } = this.#options;
    let timer: NodeJS.Timeout | undefined;
    const stop = () => request.destroy(new Error('aborted'));
    signal?.addEventListener('abort', stop, { once: true });
    request.setTimeout(silenceMs, () => request.destroy(new Error(`nothing came for ${silenceMs} ms`)));
    request.once('socket', () => {
      timer = setTimeout(() => request.destroy(new Error(`not done in ${deadlineMs} ms`)), deadlineMs);
    });
    try {
      return await act();
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
  }

  #demandOk(id: ChunkId, { statusCode }: http.IncomingMessage): void {
    if (statusCode !== 200) throw this.#badStatus(id, statusCode);
  }

  #badStatus(id: ChunkId, statusCode: number | undefined): SitecastError {
    const message = `${this.name} answered with status ${statusCode}`;
    return new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', message, {
      data: { store: this.name, id: chunkIdToHex(id), statusCode },
    });
  }
}

function parseBase(base: string): URL {
  const url = URL.canParse(base) ? new URL(base) : undefined;
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    throw new SitecastError('badInput', 'SITECAST_STORE_URL', `not the URL of a chunk store: ${base}`, {
      hint: 'It begins with http:// or https://.',
    });
  url.search = '';
  url.hash = '';
  // Without the slash the last folder would be replaced by the chunk's path, not followed by it.
  if (!url.pathname.endsWith('/')) url.pathname += '/';
  return url;
}

function answerOf(request: http.ClientRequest): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve);
    // Stays on: what fails once the answer has begun comes out of the answer's stream as well.
    request.on('error', reject);
    request.end();
  });
}

function isAbsent({ statusCode }: http.IncomingMessage): boolean {
  return statusCode === 404 || statusCode === 410;
}

async function readFrame(
  id: ChunkId,
  response: http.IncomingMessage,
  pace: (lengthBytes: number) => Promise<void> | undefined,
): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let lengthBytes = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    lengthBytes += piece.length;
    if (lengthBytes > MAX_FRAME_BYTES) throw frameTooLarge(id);
    pieces.push(piece);
    await pace(piece.length);
  }
  return Buffer.concat(pieces, lengthBytes);
}

/** Reads what belongs to no chunk; a long one ends the connection instead. */
async function discard(response: http.IncomingMessage): Promise<void> {
  let lengthBytes = 0;
  for await (const piece of response as AsyncIterable<Buffer>) {
    lengthBytes += piece.length;
    if (lengthBytes > MAX_DISCARDED_BYTES) return;
  }
}

import {
  Agent as HttpAgent,
  type ClientRequest,
  type IncomingMessage,
  request as httpRequest,
} from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import {
  Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
  chunkPath,
  MAX_FRAME_BYTES,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';

/** No byte for that long ends a request. */
const IDLE_TIMEOUT_MS = 15_000;
/** A whole chunk may take that long: a store that drips must not hold an update up for ever. */
const TIMEOUT_MS = 120_000;

/**
 * Chunks below a URL, on kept connections. Not `fetch`: its streams cost more than the decompression of what they
 * bring.
 */
export class HttpChunkStore implements ChunkStore {
  readonly name: string;
  readonly #base: URL;
  readonly #agent: HttpAgent | HttpsAgent;
  readonly #request: typeof httpRequest;

  /** @param baseUrl the folder above `0123/0123….cacnk` */
  constructor(baseUrl: string, maxConnections: number) {
    this.#base = new URL(baseUrl.replace(/\/*$/, '/'));
    this.name = this.#base.href;
    const isTls = this.#base.protocol === 'https:';
    const options = { keepAlive: true, maxSockets: maxConnections, maxFreeSockets: maxConnections };
    this.#agent = isTls ? new HttpsAgent(options) : new HttpAgent(options);
    this.#request = isTls ? httpsRequest : httpRequest;
  }

  async has(id: ChunkId, request?: ChunkRequest): Promise<boolean> {
    const status = await this.#exchange('HEAD', id, request, async response => {
      response.resume();
      return response.statusCode;
    });
    return status === 200;
  }

  async get(id: ChunkId, request?: ChunkRequest): Promise<Chunk> {
    const frame = await this.#exchange('GET', id, request, response => this.#readFrame(response, id));
    return Chunk.fromFrame(id, frame);
  }

  async #readFrame(response: IncomingMessage, id: ChunkId): Promise<Buffer> {
    if (response.statusCode === 404) {
      response.resume();
      const hex = chunkIdToHex(id);
      throw new SitecastError('notFound', 'SITECAST_CHUNK_NOT_FOUND', `${this.name} has no chunk ${hex}`, {
        data: { id: hex, store: this.name },
      });
    }
    if (response.statusCode !== 200) {
      response.destroy();
      throw this.#unreachable(`it answered with status ${response.statusCode}`);
    }
    const parts: Buffer[] = [];
    let lengthBytes = 0;
    for await (const part of response) {
      if (!Buffer.isBuffer(part)) throw new TypeError('a response without an encoding gives buffers');
      lengthBytes += part.length;
      if (lengthBytes > MAX_FRAME_BYTES) {
        response.destroy();
        throw new SitecastError(
          'untrusted',
          'SITECAST_FRAME_TOO_LARGE',
          `${this.name} sends more than ${MAX_FRAME_BYTES} bytes for one chunk`,
          { data: { id: chunkIdToHex(id), store: this.name } },
        );
      }
      parts.push(part);
    }
    const [first] = parts;
    return parts.length === 1 && first ? first : Buffer.concat(parts, lengthBytes);
  }

  #exchange<T>(
    method: string,
    id: ChunkId,
    { signal }: ChunkRequest = {},
    read: (response: IncomingMessage) => Promise<T>,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const url = new URL(this.#base.href + chunkPath(id));
      const fail = (cause: unknown) => {
        if (cause instanceof SitecastError) reject(cause);
        else if (signal?.aborted) reject(reasonOf(signal));
        else reject(this.#unreachable('the request failed', cause));
      };
      const request: ClientRequest = this.#request(
        url,
        {
          method,
          agent: this.#agent,
          timeout: IDLE_TIMEOUT_MS,
          headers: { 'accept-encoding': 'identity' },
          ...(signal ? { signal } : {}),
        },
        response => {
          read(response).then(resolve, fail);
        },
      );
      const timer = setTimeout(
        () => request.destroy(new Error(`not done after ${TIMEOUT_MS} ms`)),
        TIMEOUT_MS,
      );
      request.once('timeout', () => request.destroy(new Error(`no byte for ${IDLE_TIMEOUT_MS} ms`)));
      request.once('error', fail);
      request.once('close', () => clearTimeout(timer));
      request.end();
    });
  }

  #unreachable(why: string, cause?: unknown): SitecastError {
    return new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', `${this.name}: ${why}`, {
      data: { store: this.name },
      cause,
    });
  }
}

function reasonOf(signal: AbortSignal): Error {
  return signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason));
}

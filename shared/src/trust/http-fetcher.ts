import { SitecastError } from '../errors.ts';
import {
  type Connections,
  type HttpAnswer,
  HttpClient,
  metered,
  readBounded,
  refuseRedirect,
} from '../outbound/index.ts';
import type { MetadataFetcher } from './ports.ts';

export interface HttpFetcherOptions {
  /** The longest time of a whole request. It bounds a repository that sends very slowly. */
  timeoutMs?: number;
  /** The request fails after this time without a byte. */
  idleTimeoutMs?: number;
  headers?: Record<string, string>;
  /** Default: no proxies, Node's authorities. */
  connections?: Connections;
  /** Awaited after each piece of an answer, before the next is read: slows the sender down. @param sumBytes of the answer so far */
  onPiece?: (lengthBytes: number, sumBytes: number, signal?: AbortSignal) => Promise<void> | undefined;
}

const DEFAULT_TIMEOUT_MS = 10 * 60_000;
const DEFAULT_IDLE_TIMEOUT_MS = 30_000;
/** How much of a "no such file" answer is read, so that the connection can be used again. */
const MAX_REFUSAL_BYTES = 16 * 1024;

/**
 * Fetches files below a URL over HTTP. It counts bytes while they arrive. It refuses redirects, which would lead to a host that isn't
 * configured. It tells caches to revalidate.
 */
export class HttpFetcher implements MetadataFetcher {
  readonly #http: HttpClient;
  readonly #timeoutMs: number;
  readonly #idleTimeoutMs: number;
  readonly #onPiece: HttpFetcherOptions['onPiece'];

  /** @param baseUrl a folder, with or without a `/` at its end */
  constructor(baseUrl: string | URL, options: HttpFetcherOptions = {}) {
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#idleTimeoutMs = options.idleTimeoutMs ?? DEFAULT_IDLE_TIMEOUT_MS;
    this.#onPiece = options.onPiece;
    this.#http = new HttpClient(new URL(String(baseUrl).replace(/\/*$/, '/')).href, {
      connections: options.connections,
      headers: { ...options.headers, 'accept-encoding': 'identity', 'cache-control': 'no-cache' },
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
      isTriedAgain: true,
    });
  }

  async fetch(
    path: string,
    { maxBytes, signal, onSent }: Parameters<MetadataFetcher['fetch']>[1],
  ): Promise<Uint8Array | undefined> {
    const limits = {
      timeoutMs: this.#timeoutMs,
      silenceMs: this.#idleTimeoutMs,
      silenceText: `no byte for ${this.#idleTimeoutMs} ms`,
    };
    return await this.#http.exchange(path, { ...limits, signal, isPaid: onSent !== undefined }, answer =>
      this.#read(path, answer, { maxBytes, signal, onSent }),
    );
  }

  async #read(
    path: string,
    answer: HttpAnswer,
    { maxBytes, signal, onSent }: Parameters<MetadataFetcher['fetch']>[1],
  ): Promise<Uint8Array | undefined> {
    let sumBytes = 0;
    const onPiece = (lengthBytes: number) => {
      sumBytes += lengthBytes;
      return this.#onPiece?.(lengthBytes, sumBytes, signal);
    };
    refuseRedirect(answer);
    const { status, headers } = answer;
    // Whoever pays for bytes has put aside as many as the file has.
    const refusalBytes = Math.min(MAX_REFUSAL_BYTES, onSent ? maxBytes : MAX_REFUSAL_BYTES);
    const body = metered(answer, status === 200 ? maxBytes : refusalBytes, onSent);
    if (status === 404 || status === 403) {
      await readBounded(body, refusalBytes, onPiece);
      return undefined;
    }
    if (status !== 200) throw this.#http.unusable(path, `it answered with status ${status}`);
    const declared = Number(headers['content-length'] ?? 0);
    const bytes = declared > maxBytes ? undefined : await readBounded(body, maxBytes, onPiece);
    if (!bytes) throw tooLarge(this.#http.urlOf(path), maxBytes);
    return bytes;
  }
}

function tooLarge(url: URL, maxBytes: number): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_DOWNLOAD_TOO_LARGE',
    `${url.href} sends more than ${maxBytes} bytes`,
    { data: { url: url.href, maxBytes } },
  );
}

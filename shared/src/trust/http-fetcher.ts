import { SitecastError } from '../errors.ts';
import { type Answer, Connections, noAnswer, send } from '../outbound/index.ts';
import type { MetadataFetcher } from './ports.ts';

export interface HttpFetcherOptions {
  /** A whole request may take that long; a repository that drips must not hold an update up for ever. */
  timeoutMs?: number;
  /** No byte for that long ends the request. */
  idleTimeoutMs?: number;
  headers?: Record<string, string>;
  /** Default: none of their proxies and authorities. */
  connections?: Connections;
}

const DEFAULT_TIMEOUT_MS = 10 * 60_000;
const DEFAULT_IDLE_TIMEOUT_MS = 30_000;
/** What is read of an answer that says there is no such file, so that the connection can be used again. */
const MAX_REFUSAL_BYTES = 16 * 1024;

/**
 * Fetches files below a URL over HTTP. Bytes are counted as they come, redirects refused (they'd lead to a host
 * that nobody configured), caches on the way are told to ask again.
 */
export class HttpFetcher implements MetadataFetcher {
  readonly #baseUrl: URL;
  readonly #timeoutMs: number;
  readonly #idleTimeoutMs: number;
  readonly #headers: Record<string, string>;
  readonly #connections: Connections;

  /** @param baseUrl a folder: whether it ends in `/` doesn't matter */
  constructor(baseUrl: string | URL, options: HttpFetcherOptions = {}) {
    this.#baseUrl = new URL(String(baseUrl).replace(/\/*$/, '/'));
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    this.#idleTimeoutMs = options.idleTimeoutMs ?? DEFAULT_IDLE_TIMEOUT_MS;
    this.#connections = options.connections ?? Connections.direct;
    this.#headers = { ...options.headers, 'accept-encoding': 'identity', 'cache-control': 'no-cache' };
  }

  async fetch(
    path: string,
    { maxBytes, signal }: { maxBytes: number; signal?: AbortSignal | undefined },
  ): Promise<Uint8Array | undefined> {
    const url = new URL(this.#baseUrl.href + path);
    const idle = new AbortController();
    const timer = setTimeout(
      () => idle.abort(new Error(`no byte for ${this.#idleTimeoutMs} ms`)),
      this.#idleTimeoutMs,
    );
    const signals = [idle.signal, AbortSignal.timeout(this.#timeoutMs), ...(signal ? [signal] : [])];
    try {
      const response = await send(this.#connections.shared, url, {
        headers: this.#headers,
        signal: AbortSignal.any(signals),
      });
      return await readResponse(response, { url, maxBytes, onBytes: () => timer.refresh() });
    } catch (cause) {
      if (cause instanceof SitecastError) throw cause;
      signal?.throwIfAborted();
      throw noAnswer(cause, url, {
        code: 'SITECAST_UPSTREAM_UNREACHABLE',
        connections: this.#connections,
        isTriedAgain: true,
      });
    } finally {
      clearTimeout(timer);
      // Lets go of a response that was refused before its end.
      idle.abort();
    }
  }
}

interface Reading {
  url: URL;
  maxBytes: number;
  onBytes: () => void;
}

async function readResponse(response: Answer, reading: Reading): Promise<Uint8Array | undefined> {
  const { url, maxBytes } = reading;
  if (response.status === 404 || response.status === 403) {
    await readBody(response, { ...reading, maxBytes: MAX_REFUSAL_BYTES });
    return undefined;
  }
  if (response.status !== 200) throw unreachable(url, `it answered with status ${response.status}`);
  const declared = Number(response.headers['content-length'] ?? 0);
  const body = declared > maxBytes ? undefined : await readBody(response, reading);
  if (body === undefined) throw tooLarge(url, maxBytes);
  return body;
}

/** @returns undefined if it's longer than `maxBytes` */
async function readBody({ body }: Answer, { maxBytes, onBytes }: Reading): Promise<Uint8Array | undefined> {
  const parts: Uint8Array[] = [];
  let lengthBytes = 0;
  for await (const part of body) {
    onBytes();
    lengthBytes += part.length;
    if (lengthBytes > maxBytes) return undefined;
    parts.push(part);
  }
  return Buffer.concat(parts, lengthBytes);
}

function tooLarge(url: URL, maxBytes: number): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_DOWNLOAD_TOO_LARGE',
    `${url.href} sends more than ${maxBytes} bytes`,
    { data: { url: url.href, maxBytes } },
  );
}

function unreachable(url: URL, why: string): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', `${url.href}: ${why}`, {
    data: { url: url.href },
  });
}

import type { ChunkStore } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { signRequest } from '@sitecast/shared/http-signature';
import type { Identity } from '@sitecast/shared/identity';
import { type Answer, Connections, noAnswer, send } from '@sitecast/shared/outbound';
import { HttpFetcher, type MetadataFetcher } from '@sitecast/shared/trust';
import type { Upstream, UpstreamAnswer } from '../upstream/upstream.ts';

/** Says that a request comes from a gateway: another one passes it on to no third; a chunk it may fetch from the origin. */
export const MAY_FETCH = { 'sitecast-forwarded': '1' };
/** The same for a chunk that's given only if it's there. */
export const HELD_ONLY = { 'sitecast-forwarded': '2' };
/** The longest answer of the site API. */
const MAX_ANSWER_BYTES = 1024 * 1024;
/** The longest timestamp. */
const MAX_TIMESTAMP_BYTES = 16 * 1024;
const ANSWER_TIMEOUT_MS = 15_000;
/** How much longer than asked for a long poll may take. */
const WAIT_GRACE_MS = 10_000;

export interface HttpUpstreamOptions {
  url: string;
  isOrigin: boolean;
  identity: Identity;
  now: () => number;
  chunks: ChunkStore;
  /** Default: without proxies. */
  connections?: Connections;
  /** Ends every request of the site API. */
  signal: AbortSignal;
  /** Called with what came over the WAN. */
  onBytes: (kind: 'metadata' | 'targets' | 'site', lengthBytes: number) => void;
  /** Called with what goes out over it. */
  onSent?: (lengthBytes: number) => void;
  /** A whole file of metadata or targets may take that long. */
  timeoutMs?: number;
  idleTimeoutMs?: number;
}

/** An origin or another gateway, over HTTP. */
export class HttpUpstream implements Upstream {
  readonly url: string;
  readonly isOrigin: boolean;
  readonly metadata: MetadataFetcher;
  readonly targets: MetadataFetcher;
  readonly chunks: ChunkStore;
  readonly #options: HttpUpstreamOptions;
  readonly #connections: Connections;
  /** The upstream's clock less ours, as it said itself: for signing requests to it, and nothing else. */
  #clockOffsetMs = 0;

  constructor(options: HttpUpstreamOptions) {
    this.#options = options;
    this.#connections = options.connections ?? Connections.direct;
    this.url = options.url.replace(/\/*$/, '');
    this.isOrigin = options.isOrigin;
    this.chunks = options.chunks;
    this.metadata = this.#fetcher('metadata');
    this.targets = this.#fetcher('targets');
  }

  async waitForChange(
    etag: string | undefined,
    { waitS, signal }: { waitS: number; signal: AbortSignal },
  ): Promise<{ etag: string | undefined; isChanged: boolean }> {
    const response = await this.#send('/metadata/timestamp.json', {
      headers: {
        'cache-control': 'no-cache',
        ...(etag === undefined ? {} : { prefer: `wait=${waitS}`, 'if-none-match': etag }),
      },
      signal: AbortSignal.any([signal, AbortSignal.timeout(waitS * 1000 + WAIT_GRACE_MS)]),
    });
    const body = await this.#readBounded(response, MAX_TIMESTAMP_BYTES);
    this.#options.onBytes('metadata', body.length);
    if (response.status === 304) return { etag, isChanged: false };
    if (response.status !== 200) throw unreachable(this.url, `it answered with status ${response.status}`);
    return { etag: response.headers.etag, isChanged: true };
  }

  async ask(path: string, body?: unknown): Promise<UpstreamAnswer> {
    const answer = await this.#ask(path, body);
    const isClock =
      answer.status === 401 && problemCodeOf(answer.json) === 'SITECAST_REQUEST_CLOCK' && answer.dateMs > 0;
    if (body === undefined || !isClock) return answer;
    this.#clockOffsetMs = answer.dateMs - this.#options.now();
    return this.#ask(path, body);
  }

  async #ask(path: string, body: unknown): Promise<UpstreamAnswer & { dateMs: number }> {
    const bytes = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const { identity, now, signal, onSent } = this.#options;
    const url = this.url + path;
    if (bytes) onSent?.(bytes.length);
    const response = await this.#send(path, {
      ...(bytes && {
        method: 'POST',
        body: bytes,
        headers: {
          'content-type': 'application/json',
          ...(await signRequest({ method: 'POST', url, body: bytes }, identity, now() + this.#clockOffsetMs)),
        },
      }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_TIMEOUT_MS)]),
    });
    const received = await this.#readBounded(response, MAX_ANSWER_BYTES);
    this.#options.onBytes('site', received.length);
    const dateMs = Date.parse(response.headers.date ?? '') || 0;
    return { status: response.status, json: parseJson(received), dateMs };
  }

  async #send(
    path: string,
    init: { method?: string; body?: Uint8Array; headers?: Record<string, string>; signal: AbortSignal },
  ): Promise<Answer> {
    const headers = { ...init.headers, ...MAY_FETCH };
    try {
      return await send(this.#connections.shared, this.url + path, { ...init, headers });
    } catch (cause) {
      throw this.#noAnswer(cause);
    }
  }

  async #readBounded({ body }: Answer, maxBytes: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    let lengthBytes = 0;
    try {
      for await (const part of body) {
        lengthBytes += part.length;
        if (lengthBytes > maxBytes) throw unreachable(this.url, `it sends more than ${maxBytes} bytes`);
        parts.push(part);
      }
    } catch (cause) {
      throw this.#noAnswer(cause);
    }
    return Buffer.concat(parts, lengthBytes);
  }

  #noAnswer(cause: unknown): SitecastError {
    return noAnswer(cause, new URL(this.url), {
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
      connections: this.#connections,
      isTriedAgain: true,
      subject: this.url,
    });
  }

  #fetcher(kind: 'metadata' | 'targets'): MetadataFetcher {
    const { timeoutMs, idleTimeoutMs, onBytes } = this.#options;
    const fetcher = new HttpFetcher(`${this.url}/${kind}`, {
      headers: MAY_FETCH,
      connections: this.#connections,
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
    });
    return {
      fetch: async (path, options) => {
        const bytes = await fetcher.fetch(path, options);
        onBytes(kind, bytes?.length ?? 0);
        return bytes;
      },
    };
  }
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    // Whoever asked decides what an answer without JSON is good for.
    return undefined;
  }
}

function problemCodeOf(json: unknown): string | undefined {
  return typeof json === 'object' && json !== null && 'code' in json ? String(json.code) : undefined;
}

function unreachable(url: string, why: string): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_UPSTREAM_UNREACHABLE', `${url}: ${why}`, {
    data: { url },
  });
}

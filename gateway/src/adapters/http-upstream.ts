import type { ChunkStore } from '@sitecast/shared/content';
import { ORIGIN_RECEIVER } from '@sitecast/shared/http-signature';
import type { Identity } from '@sitecast/shared/identity';
import type { Connections } from '@sitecast/shared/outbound';
import { HttpFetcher, type MetadataFetcher } from '@sitecast/shared/trust';
import { SiteClient } from '@sitecast/shared/upstream';
import {
  type ForwardedAnswer,
  type ForwardedRequest,
  pickHeaders,
  type Upstream,
  type UpstreamAnswer,
} from '../upstream/upstream.ts';

/** Tells that a request comes from a gateway. Another gateway doesn't pass it on to a third one, but may fetch a chunk from the origin. */
export const MAY_FETCH = { 'sitecast-forwarded': '1' };
/** The same for a chunk that should only be sent if it is stored there. */
export const HELD_ONLY = { 'sitecast-forwarded': '2' };
/** The longest timestamp. */
const MAX_TIMESTAMP_BYTES = 16 * 1024;
/** Headers of an answer that are returned to the gateway whose request was passed on. */
const RETURNED = ['content-type', 'date', 'retry-after'];
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
  /** Called with bytes that nothing paces: those of metadata and answers. */
  onPassed?: (lengthBytes: number) => void;
  /** Called with sent bytes of this gateway's own requests. */
  onSent?: (lengthBytes: number) => void;
  /** Called with sent bytes of requests that others have signed. */
  onForwarded?: (lengthBytes: number) => void;
  /** The bound for one whole file of metadata or targets, in ms. */
  timeoutMs?: number;
  idleTimeoutMs?: number;
  /** The bounds for target files instead of those above, if their parts are paced. */
  pacedFiles?: {
    timeoutMs: number;
    idleTimeoutMs: number;
    /** Awaited after each part, before the next is read, which slows the sender down. @param sumBytes of the file so far */
    pace: (lengthBytes: number, sumBytes: number, signal?: AbortSignal) => Promise<void>;
  };
}

/** An origin or another gateway, over HTTP. */
export class HttpUpstream implements Upstream {
  readonly url: string;
  readonly isOrigin: boolean;
  readonly metadata: MetadataFetcher;
  readonly targets: MetadataFetcher;
  readonly chunks: ChunkStore;
  readonly #options: HttpUpstreamOptions;
  readonly #client: SiteClient;

  constructor(options: HttpUpstreamOptions) {
    const { identity, now, connections } = options;
    this.#options = options;
    this.url = options.url.replace(/\/*$/, '');
    this.isOrigin = options.isOrigin;
    this.chunks = options.chunks;
    this.#client = new SiteClient(this.url, {
      identity,
      // Requests are signed for the origin, whoever passes them on.
      receiver: ORIGIN_RECEIVER,
      now,
      connections,
      headers: MAY_FETCH,
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
      subject: this.url,
      timeoutMs: ANSWER_TIMEOUT_MS,
    });
    this.metadata = this.#fetcher('metadata');
    this.targets = this.#fetcher('targets');
  }

  async waitForChange(
    etag: string | undefined,
    { waitS, signal }: { waitS: number; signal: AbortSignal },
  ): Promise<{ etag: string | undefined; isChanged: boolean }> {
    const path = '/metadata/timestamp.json';
    const { status, headers, lengthBytes } = await this.#client.get(path, {
      headers: {
        'cache-control': 'no-cache',
        ...(etag === undefined ? {} : { prefer: `wait=${waitS}`, 'if-none-match': etag }),
      },
      signal,
      timeoutMs: waitS * 1000 + WAIT_GRACE_MS,
      maxBytes: MAX_TIMESTAMP_BYTES,
    });
    this.#unpaced('metadata', lengthBytes);
    if (status === 304) return { etag, isChanged: false };
    if (status !== 200) throw this.#client.unusable(path, `it answered with status ${status}`);
    return { etag: headers.etag, isChanged: true };
  }

  async ask(path: string, body?: unknown): Promise<UpstreamAnswer> {
    const { signal, onSent } = this.#options;
    const request = {
      signal,
      onAnswer: (lengthBytes: number) => this.#unpaced('site', lengthBytes),
      ...(onSent && { onSend: onSent }),
    };
    const { status, json } =
      body === undefined
        ? await this.#client.get(path, request)
        : await this.#client.post(path, Buffer.from(JSON.stringify(body)), request);
    return { status, json };
  }

  async forward(request: ForwardedRequest): Promise<ForwardedAnswer> {
    const { signal, onForwarded } = this.#options;
    const answer = await this.#client.forward({
      ...request,
      signal,
      onAnswer: lengthBytes => this.#unpaced('site', lengthBytes),
      ...(onForwarded && { onSend: onForwarded }),
    });
    const headers = pickHeaders(RETURNED, name => answer.headers[name]?.toString());
    return { status: answer.status, headers, body: answer.body };
  }

  #unpaced(kind: 'metadata' | 'targets' | 'site', lengthBytes: number): undefined {
    this.#options.onBytes(kind, lengthBytes);
    this.#options.onPassed?.(lengthBytes);
  }

  #fetcher(kind: 'metadata' | 'targets'): MetadataFetcher {
    const { connections, onBytes, pacedFiles } = this.#options;
    const paced = kind === 'targets' ? pacedFiles : undefined;
    const { timeoutMs, idleTimeoutMs } = paced ?? this.#options;
    return new HttpFetcher(`${this.url}/${kind}`, {
      headers: MAY_FETCH,
      ...(connections && { connections }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
      onPiece: (lengthBytes, sumBytes, signal) => {
        if (!paced) return this.#unpaced(kind, lengthBytes);
        onBytes(kind, lengthBytes);
        return paced.pace(lengthBytes, sumBytes, signal);
      },
    });
  }
}

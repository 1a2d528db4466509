import { type ChunkStore, HttpStore } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { signRequest } from '@sitecast/shared/http-signature';
import type { Identity } from '@sitecast/shared/identity';
import { type Answer, Connections, noAnswer, send, type Sending } from '@sitecast/shared/outbound';
import { HttpFetcher, type MetadataFetcher } from '@sitecast/shared/trust';
import type { Gateway, JsonAnswer } from '../ports.ts';

const NO_BODY = new Uint8Array(0);
const MAX_ANSWER_BYTES = 1024 * 1024;
const TIMEOUT_MS = 30_000;
/** A gateway that says nothing for so long makes room for the next one. */
const CHUNK_SILENCE_MS = 15_000;
const METADATA_TIMEOUTS = { timeoutMs: 120_000, idleTimeoutMs: 15_000 };
/** Beyond the time that the gateway was asked to wait. */
const WAIT_GRACE_MS = 10_000;

export interface HttpGatewayOptions {
  identity: Identity;
  now: () => number;
  maxConnections: number;
  /** Default: without proxies. */
  connections?: Connections;
}

/** A gateway over HTTP. */
export class HttpGateway implements Gateway {
  readonly url: string;
  readonly metadata: MetadataFetcher;
  readonly targets: MetadataFetcher;
  readonly chunks: ChunkStore;
  readonly #options: HttpGatewayOptions;
  readonly #connections: Connections;
  /** What's to be added to our clock to get the gateway's: for signatures of requests alone. */
  #clockOffsetMs = 0;
  #etag: string | undefined;

  constructor(url: string, options: HttpGatewayOptions) {
    this.url = url.replace(/\/*$/, '');
    this.#options = options;
    this.#connections = options.connections ?? Connections.direct;
    const fetching = { ...METADATA_TIMEOUTS, connections: this.#connections };
    this.metadata = new HttpFetcher(`${this.url}/metadata`, fetching);
    this.targets = new HttpFetcher(`${this.url}/targets`, fetching);
    this.chunks = new HttpStore(`${this.url}/chunks`, {
      silenceMs: CHUNK_SILENCE_MS,
      connections: options.maxConnections,
      via: this.#connections,
    });
  }

  async getJson(path: string, signal?: AbortSignal): Promise<JsonAnswer> {
    const { status, body } = this.#checked(path, await this.#exchange(path, {}, signal));
    return { status, body };
  }

  async postJson(path: string, body: unknown, signal?: AbortSignal): Promise<JsonAnswer> {
    const bytes = Buffer.from(JSON.stringify(body));
    const first = await this.#post(path, bytes, signal);
    if (first.status !== 401 || codeOf(first.body) !== 'SITECAST_REQUEST_CLOCK') return first;
    const theirsMs = Date.parse(first.headers.date ?? '');
    if (Number.isNaN(theirsMs)) return first;
    this.#clockOffsetMs = theirsMs - this.#options.now();
    return this.#post(path, bytes, signal);
  }

  async waitForChange(waitMs: number, signal?: AbortSignal): Promise<'changed' | 'same'> {
    const path = '/metadata/timestamp.json';
    const headers: Record<string, string> = {
      prefer: `wait=${Math.round(waitMs / 1000)}`,
      // Nobody demands it: so the gateway knows who lives.
      ...(await this.#signed('GET', path, NO_BODY)),
    };
    if (this.#etag !== undefined) headers['if-none-match'] = this.#etag;
    const exchanged = await this.#exchange(path, { headers }, signal, waitMs + WAIT_GRACE_MS);
    const { status, headers: answered } = this.#checked(path, exchanged);
    if (status !== 200 && status !== 304)
      throw unreachable(this.url + path, `it answered with status ${status}`);
    const { etag } = answered;
    const isNew = status === 200 && etag !== undefined && etag !== this.#etag;
    const isFirst = this.#etag === undefined;
    if (etag !== undefined) this.#etag = etag;
    return isNew && !isFirst ? 'changed' : 'same';
  }

  async #post(path: string, body: Buffer, signal?: AbortSignal): Promise<Exchanged> {
    const headers = { 'content-type': 'application/json', ...(await this.#signed('POST', path, body)) };
    const init = { method: 'POST', body, headers };
    return this.#checked(path, await this.#exchange(path, init, signal));
  }

  #signed(method: 'GET' | 'POST', path: string, body: Uint8Array): Promise<Record<string, string>> {
    const { identity, now } = this.#options;
    return signRequest({ method, url: this.url + path, body }, identity, now() + this.#clockOffsetMs);
  }

  /**
   * Gateways and origins answer with a JSON object, or with nothing. Whatever else comes, with whatever status, is somebody else's:
   * a captive portal's page, a proxy's.
   */
  #checked(path: string, exchanged: Exchanged): Exchanged {
    if (exchanged.isEmpty || (typeof exchanged.body === 'object' && exchanged.body !== null))
      return exchanged;
    throw unreachable(
      this.url + path,
      `what answers, with status ${exchanged.status}, is no gateway: a captive portal, or a proxy`,
    );
  }

  async #exchange(
    path: string,
    init: Omit<Sending, 'signal'>,
    signal: AbortSignal | undefined,
    timeoutMs = TIMEOUT_MS,
  ): Promise<Exchanged> {
    const url = this.url + path;
    const signals = [AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])];
    try {
      const response = await send(this.#connections.shared, url, {
        ...init,
        signal: AbortSignal.any(signals),
      });
      const text = await readBounded(response, url);
      return { status: response.status, headers: response.headers, body: parse(text), isEmpty: text === '' };
    } catch (cause) {
      if (cause instanceof SitecastError) throw cause;
      signal?.throwIfAborted();
      throw noAnswer(cause, new URL(url), {
        code: 'SITECAST_GATEWAY_UNREACHABLE',
        connections: this.#connections,
        isTriedAgain: true,
      });
    }
  }
}

interface Exchanged extends JsonAnswer {
  headers: Answer['headers'];
  isEmpty: boolean;
}

async function readBounded({ body }: Answer, url: string): Promise<string> {
  const parts: Uint8Array[] = [];
  let lengthBytes = 0;
  for await (const part of body) {
    lengthBytes += part.length;
    if (lengthBytes > MAX_ANSWER_BYTES)
      throw unreachable(url, `it sends more than ${MAX_ANSWER_BYTES} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts, lengthBytes).toString('utf8');
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // A page, of some proxy or portal.
    return undefined;
  }
}

function codeOf(body: unknown): unknown {
  return typeof body === 'object' && body !== null && 'code' in body ? body.code : undefined;
}

function unreachable(url: string, why: string): SitecastError {
  return new SitecastError('unreachable', 'SITECAST_GATEWAY_UNREACHABLE', `${url}: ${why}`, {
    data: { url },
  });
}

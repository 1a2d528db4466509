import { type ChunkId, HttpStore } from '@sitecast/shared/content';
import type { Identity } from '@sitecast/shared/identity';
import type { Connections } from '@sitecast/shared/outbound';
import { HttpFetcher, type MetadataFetcher } from '@sitecast/shared/trust';
import { type LearnedReceiver, type SiteAnswer, SiteClient } from '@sitecast/shared/upstream';
import type { Gateway, JsonAnswer } from '../ports.ts';

const TIMEOUT_MS = 30_000;
/** If no byte of a chunk arrives for this long, the next gateway is asked. */
const CHUNK_SILENCE_MS = 15_000;
const METADATA_TIMEOUTS = { timeoutMs: 120_000, idleTimeoutMs: 15_000 };
/** In addition to the time that the gateway was asked to wait. */
const WAIT_GRACE_MS = 10_000;

export interface HttpGatewayOptions {
  identity: Identity;
  /** The id of the gateway that answers at the URL. */
  receiver: LearnedReceiver;
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
  readonly chunks: HttpStore;
  readonly #client: SiteClient;
  #etag: string | undefined;

  constructor(url: string, { identity, receiver, now, maxConnections, connections }: HttpGatewayOptions) {
    const code = 'SITECAST_GATEWAY_UNREACHABLE';
    this.#client = new SiteClient(url, { identity, receiver, now, connections, code, timeoutMs: TIMEOUT_MS });
    this.url = this.#client.url;
    const fetching = { ...METADATA_TIMEOUTS, ...(connections && { connections }) };
    this.metadata = new HttpFetcher(`${this.url}/metadata`, fetching);
    this.targets = new HttpFetcher(`${this.url}/targets`, fetching);
    this.chunks = new HttpStore(`${this.url}/chunks`, {
      silenceMs: CHUNK_SILENCE_MS,
      connections: maxConnections,
      ...(connections && { via: connections }),
    });
  }

  frameBytes(id: ChunkId, signal: AbortSignal): Promise<number | undefined> {
    return this.chunks.frameBytes(id, signal);
  }

  async getJson(path: string, signal?: AbortSignal): Promise<JsonAnswer> {
    return this.#checked(path, await this.#client.get(path, { signal }));
  }

  async postJson(
    path: string,
    body: unknown,
    signal?: AbortSignal,
    timeoutMs = TIMEOUT_MS,
  ): Promise<JsonAnswer> {
    const bytes = Buffer.from(JSON.stringify(body));
    return this.#checked(path, await this.#client.post(path, bytes, { signal, timeoutMs }));
  }

  async waitForChange(waitMs: number, signal?: AbortSignal): Promise<'changed' | 'same'> {
    const path = '/metadata/timestamp.json';
    const answer = await this.#client.get(path, {
      // No gateway requires this signature. It tells the gateway which devices are alive.
      isSigned: true,
      headers: {
        prefer: `wait=${Math.round(waitMs / 1000)}`,
        ...(this.#etag !== undefined && { 'if-none-match': this.#etag }),
      },
      signal,
      timeoutMs: waitMs + WAIT_GRACE_MS,
    });
    const { status } = this.#checked(path, answer);
    if (status !== 200 && status !== 304)
      throw this.#client.unusable(path, `it answered with status ${status}`);
    const { etag } = answer.headers;
    const isNew = status === 200 && etag !== undefined && etag !== this.#etag;
    const isFirst = this.#etag === undefined;
    if (etag !== undefined) this.#etag = etag;
    return isNew && !isFirst ? 'changed' : 'same';
  }

  /**
   * Gateways and origins answer with a JSON object, or with nothing. Any other body, with any status, comes from something else, such as a
   * captive portal or a proxy.
   */
  #checked(path: string, { status, json, lengthBytes }: SiteAnswer): JsonAnswer {
    if (lengthBytes === 0 || (typeof json === 'object' && json !== null)) return { status, body: json };
    throw this.#client.unusable(
      path,
      `what answers, with status ${status}, is no gateway: a captive portal, or a proxy`,
    );
  }
}

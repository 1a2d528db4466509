import type { IncomingHttpHeaders } from 'node:http';
import { problemSchema, received } from '../api/index.ts';
import type { ErrorCode } from '../errors.ts';
import { signRequest } from '../http-signature/index.ts';
import type { Identity } from '../identity/index.ts';
import {
  type Connections,
  HttpClient,
  type HttpRequest,
  readBounded,
  refuseRedirect,
} from '../outbound/index.ts';

const NO_BODY = new Uint8Array(0);
/** The longest answer of the site API. */
const MAX_ANSWER_BYTES = 1024 * 1024;
const problemReader = received(problemSchema);
/**
 * What a server's clock may say. Over plain HTTP anyone on the way can send a date; a time that no signature can carry would leave every
 * later request refused for its signature, and never corrected.
 */
const SERVER_CLOCK_MS = { min: Date.UTC(2000, 0), max: Date.UTC(9000, 0) };

export interface SiteClientOptions {
  /** Signs the requests. */
  identity: Identity;
  /** Milliseconds since 1970. */
  now: () => number;
  connections?: Connections | undefined;
  headers?: Readonly<Record<string, string>>;
  /** Where there is no answer. */
  code: ErrorCode;
  subject?: string;
  timeoutMs: number;
}

export interface SiteAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  /** Undefined where the body isn't JSON. */
  json: unknown;
  lengthBytes: number;
}

/** An answer as it came. */
interface RawAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

export interface SiteRequest {
  headers?: Readonly<Record<string, string>>;
  signal?: AbortSignal | undefined;
  timeoutMs?: number;
  maxBytes?: number;
  /** Is called with the length of each body that goes out. */
  onSend?: (lengthBytes: number) => void;
  /** Is called with the length of each body that came. */
  onAnswer?: (lengthBytes: number) => void;
}

/**
 * Asks an origin or a gateway: the site API (`/site/v1`), and the timestamp. Requests are signed by the time of the server's clock, once
 * that has said how far ours is off: nothing else goes by it.
 */
export class SiteClient {
  readonly url: string;
  readonly #options: SiteClientOptions;
  readonly #http: HttpClient;
  /** The server's clock less ours. */
  #clockOffsetMs = 0;

  constructor(url: string, options: SiteClientOptions) {
    this.url = url.replace(/\/*$/, '');
    this.#options = options;
    this.#http = new HttpClient(this.url, { ...options, isTriedAgain: true });
  }

  /**
   * @param request.isSigned whether the server is to know who asks
   * @throws this client's code where no answer came, or too long a one
   */
  async get(path: string, { isSigned = false, ...request }: SiteRequest & { isSigned?: boolean } = {}) {
    const headers = { ...request.headers, ...(isSigned && (await this.#signed('GET', path, NO_BODY))) };
    return await this.#ask(path, { ...request, headers });
  }

  /**
   * A signed request. Where the server's clock says that ours is wrong it is signed anew by that, and sent once more.
   * @throws this client's code where no answer came, or too long a one
   */
  async post(path: string, body: Uint8Array, request: SiteRequest = {}): Promise<SiteAnswer> {
    const first = await this.#post(path, body, request);
    if (first.status !== 401 || problemReader.parse(first.json).code !== 'SITECAST_REQUEST_CLOCK')
      return first;
    const serversMs = Date.parse(first.headers.date ?? '');
    if (!(serversMs >= SERVER_CLOCK_MS.min && serversMs <= SERVER_CLOCK_MS.max)) return first;
    this.#clockOffsetMs = serversMs - this.#options.now();
    return await this.#post(path, body, request);
  }

  /**
   * Sends a request that somebody else has signed, as it is.
   * @throws this client's code where no answer came, or too long a one
   */
  async forward({
    method,
    path,
    headers,
    body,
    ...limits
  }: Pick<SiteRequest, 'signal' | 'onSend' | 'onAnswer'> & {
    method: 'GET' | 'POST';
    path: string;
    headers: Readonly<Record<string, string>>;
    body: Uint8Array | undefined;
  }): Promise<RawAnswer> {
    return await this.#exchange(path, { ...limits, method, headers, body });
  }

  /** The error for an answer that came and is of no use. */
  unusable(path: string, why: string): Error {
    return this.#http.unusable(path, why);
  }

  async #post(path: string, body: Uint8Array, request: SiteRequest): Promise<SiteAnswer> {
    const headers = {
      ...request.headers,
      'content-type': 'application/json',
      ...(await this.#signed('POST', path, body)),
    };
    return await this.#ask(path, { ...request, method: 'POST', headers, body });
  }

  #signed(method: 'GET' | 'POST', path: string, body: Uint8Array): Promise<Record<string, string>> {
    const { identity, now } = this.#options;
    return signRequest({ method, url: this.url + path, body }, identity, now() + this.#clockOffsetMs);
  }

  async #ask(path: string, request: SiteRequest & HttpRequest): Promise<SiteAnswer> {
    const { status, headers, body } = await this.#exchange(path, request);
    return { status, headers, json: jsonIn(body), lengthBytes: body.length };
  }

  #exchange(
    path: string,
    { maxBytes = MAX_ANSWER_BYTES, onSend, onAnswer, ...request }: SiteRequest & HttpRequest,
  ): Promise<RawAnswer> {
    const { timeoutMs } = this.#options;
    if (request.body) onSend?.(request.body.length);
    return this.#http.exchange(path, { timeoutMs, ...request }, async answer => {
      refuseRedirect(answer);
      const body = await readBounded(answer.body, maxBytes);
      if (!body) throw this.#http.unusable(path, `it sends more than ${maxBytes} bytes`);
      onAnswer?.(body.length);
      return { status: answer.status, headers: answer.headers, body };
    });
  }
}

function jsonIn(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch {
    // The caller decides what an answer without JSON is good for: it may be a proxy's page, or a captive portal's.
    return undefined;
  }
}

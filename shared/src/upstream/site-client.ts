import type { IncomingHttpHeaders } from 'node:http';
import { z } from 'zod';
import { gatewayIdentitySchema, problemSchema, received } from '../api/index.ts';
import type { ErrorCode } from '../errors.ts';
import { ORIGIN_RECEIVER, signRequest } from '../http-signature/index.ts';
import { type Identity, isId } from '../identity/index.ts';
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
const gatewayReader = received(gatewayIdentitySchema);
/** What a server says of itself where a request was meant for another one. */
const misdirectedReader = received(z.object({ receiver: z.string() }));
/** The path at which gateways say which they are. The origin has no such path. */
const WHO_PATH = '/site/v1/gateway';
/**
 * What a server's clock may say. Over plain HTTP anyone on the way can send a date; a time that no signature can carry would leave every
 * later request refused for its signature, and never corrected.
 */
const SERVER_CLOCK_MS = { min: Date.UTC(2000, 0), max: Date.UTC(9000, 0) };

/** Which server a URL leads to, as it has said itself: its name as a receiver of signed requests. */
export interface LearnedReceiver {
  /** Undefined: it hasn't said it yet. */
  readonly name: string | undefined;
  /** @returns false where it isn't believed */
  learn(name: string): Promise<boolean>;
  /** A request that was meant for it was taken. */
  confirm(): void;
}

export interface SiteClientOptions {
  /** Signs the requests. */
  identity: Identity;
  /** The name of the server that requests are meant for, or where it is kept: it is asked for then. */
  receiver: string | LearnedReceiver;
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
    const signed = isSigned ? await this.#signed({ method: 'GET', path, body: NO_BODY }, request) : {};
    const headers = { ...request.headers, ...signed };
    return await this.#ask(path, { ...request, headers });
  }

  /**
   * A signed request. Where the server says that our clock is wrong, or that it is another server than the request is meant for, that is
   * corrected, and the request is signed anew and sent once more.
   * @throws this client's code where no answer came, or too long a one, or one of another server than this device knows at this URL
   */
  async post(path: string, body: Uint8Array, request: SiteRequest = {}): Promise<SiteAnswer> {
    const corrected = new Set<string>();
    for (;;) {
      const answer = await this.#post(path, body, request);
      const { code = '', data } = answer.status === 401 ? problemReader.parse(answer.json) : {};
      const isNew = !corrected.has(code);
      corrected.add(code);
      if (code === 'SITECAST_REQUEST_CLOCK') {
        if (!isNew || !this.#adoptClock(answer)) return answer;
      } else if (code === 'SITECAST_REQUEST_MISDIRECTED') {
        const { receiver = '' } = misdirectedReader.parse(data);
        if (!isNew || !isName(receiver))
          throw this.unusable(path, 'it says that it is another server each time');
        await this.#learn(path, receiver);
      } else {
        if (typeof this.#options.receiver !== 'string') this.#options.receiver.confirm();
        return answer;
      }
    }
  }

  #adoptClock({ headers }: SiteAnswer): boolean {
    const serversMs = Date.parse(headers.date ?? '');
    if (!(serversMs >= SERVER_CLOCK_MS.min && serversMs <= SERVER_CLOCK_MS.max)) return false;
    this.#clockOffsetMs = serversMs - this.#options.now();
    return true;
  }

  /** @param request the one that is to be signed */
  async #receiver({ signal, timeoutMs }: SiteRequest): Promise<string> {
    const { receiver } = this.#options;
    const known = typeof receiver === 'string' ? receiver : receiver.name;
    if (known !== undefined) return known;
    const { status, json } = await this.get(WHO_PATH, {
      signal,
      ...(timeoutMs !== undefined && { timeoutMs }),
    });
    const { id } = status === 200 ? gatewayReader.parse(json) : {};
    // What has no such path, and says so as we do, is an origin.
    const isOrigin = status === 404 && problemReader.parse(json).code !== undefined;
    const name = isOrigin ? ORIGIN_RECEIVER : id;
    if (name === undefined) throw this.unusable(WHO_PATH, `it answered with status ${status}`);
    await this.#learn(WHO_PATH, name);
    return name;
  }

  async #learn(path: string, name: string): Promise<void> {
    const { receiver } = this.#options;
    if (typeof receiver !== 'string' && (await receiver.learn(name))) return;
    throw this.unusable(
      path,
      `it says that it is ${name}, which is known elsewhere: nothing is signed for it`,
    );
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
      ...(await this.#signed({ method: 'POST', path, body }, request)),
    };
    return await this.#ask(path, { ...request, method: 'POST', headers, body });
  }

  async #signed(
    { method, path, body }: { method: 'GET' | 'POST'; path: string; body: Uint8Array },
    request: SiteRequest,
  ): Promise<Record<string, string>> {
    const { identity, now } = this.#options;
    const receiver = await this.#receiver(request);
    const url = this.url + path;
    return await signRequest({ method, url, body, receiver }, identity, now() + this.#clockOffsetMs);
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

function isName(receiver: string): boolean {
  return receiver === ORIGIN_RECEIVER || isId(receiver);
}

function jsonIn(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch {
    // The caller decides what an answer without JSON is good for: it may be a proxy's page, or a captive portal's.
    return undefined;
  }
}

import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { type ErrorCode, isSystemError, SitecastError } from '../errors.ts';
import { type BulkAnswer, NotPlain } from './bulk-connection.ts';
import { BulkPool } from './bulk-pool.ts';
import { Connections } from './connections.ts';
import { noAnswer } from './failure.ts';
import type { Pool } from './pool.ts';

export interface HttpClientOptions {
  /** Proxies and trusted authorities. By default no proxies, and Node's authorities. */
  connections?: Connections | undefined;
  /**
   * Connections to the server at one time; further requests wait. By default there is no bound, and the process's shared connections are
   * used.
   */
  maxSockets?: number;
  /** Sent with every request. */
  headers?: Readonly<Record<string, string>>;
  /** The code of a failure without one of its own: nothing listens there, or the connection broke. */
  code: ErrorCode;
  /** What to do about such a failure; by default a question. */
  hint?: string;
  /** The caller retries by itself, so a certificate that isn't trusted is `unreachable`, too. By default it is `untrusted`, for people. */
  isTriedAgain?: boolean;
  /** What errors name; by default the requested URL. */
  subject?: string;
}

export interface HttpRequest {
  method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  headers?: Readonly<Record<string, string>>;
  /** It isn't copied, so it must not change until the exchange has settled. */
  body?: Uint8Array | undefined;
  /** The exchange rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** From the call until the answer is read, with the wait for a free connection. */
  timeoutMs?: number;
  /** From the moment of a connection until the answer is read. */
  deadlineMs?: number;
  /** The longest time in which a connected server neither accepts nor sends a byte. */
  silenceMs?: number;
  /** How an error describes that silence. */
  silenceText?: string;
  /** The bytes of an answer cost something: the request isn't sent again once an answer has begun. */
  isPaid?: boolean;
  /**
   * For a GET: one of many whose bodies are no longer than that many bytes, of one server. Once an answer has shown that the server gives their
   * length, they are read in ticks: over a thin link that takes half of the computing. The body comes in one piece then, in memory that is overwritten once `read` has
   * ended. Needs `maxSockets`.
   */
  bulkBytes?: number | undefined;
  /** The caller's memory for such a body. Nothing else writes to it once the exchange has settled. */
  memory?: Uint8Array | undefined;
  /** Called with the bytes of a paid answer that isn't in the form of such bodies, though those before it were: the exchange fails then. */
  onDropped?: ((lengthBytes: number) => void) | undefined;
  /** Added to the data of errors, beside the URL. */
  data?: Record<string, unknown>;
}

export interface HttpAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  body: AsyncIterable<Buffer>;
}

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** The HTTP client of every part of Sitecast: one request, a bounded read of its answer, one kind of error. */
export class HttpClient {
  readonly #base: string;
  readonly #options: HttpClientOptions;
  readonly #connections: Connections;
  readonly #ownPool: Pool | undefined;
  readonly #bulk: BulkPool | undefined;
  /** The server's last answer by node:http was of the one form that is read in bulk. */
  #isPlain = false;

  /** @param base the prefix of each path */
  constructor(base: string, options: HttpClientOptions) {
    const { connections = Connections.direct, maxSockets } = options;
    this.#base = base;
    this.#options = options;
    this.#connections = connections;
    this.#ownPool = maxSockets === undefined ? undefined : connections.pool({ maxSockets });
    if (maxSockets !== undefined && connections.tcp)
      this.#bulk = new BulkPool({ maxSockets, trusted: connections.tcp.trusted });
  }

  /**
   * Sends a request and reads its answer. It follows no redirect, which would lead to a host that isn't configured. A server may close a
   * kept connection just when it is used again; then the request is sent once more.
   * @param read gets the answer while its connection is held. It may be called twice for a GET, and need not read the whole body
   * @throws what `read` throws as SitecastError; the signal's reason; an error with this client's code, or a more precise one, where no
   * whole answer came
   */
  async exchange<T>(
    path: string,
    request: HttpRequest,
    read: (answer: HttpAnswer) => Promise<T>,
  ): Promise<T> {
    const url = this.urlOf(path);
    try {
      return await this.#exchange(url, request, read);
    } catch (error) {
      if (error instanceof SitecastError) throw error;
      request.signal?.throwIfAborted();
      const { code, hint, isTriedAgain, subject } = this.#options;
      throw noAnswer(error, subject === undefined ? url : new URL(this.#base), {
        code,
        connections: this.#connections,
        ...(hint !== undefined && { hint }),
        ...(isTriedAgain !== undefined && { isTriedAgain }),
        ...(subject !== undefined && { subject }),
        ...(request.data && { data: request.data }),
      });
    }
  }

  urlOf(path: string): URL {
    return new URL(this.#base + path);
  }

  /** The error for an answer that came but can't be used. */
  unusable(path: string, why: string): SitecastError {
    const { code, subject } = this.#options;
    const url = subject === undefined ? this.urlOf(path).href : this.#base;
    return new SitecastError('unreachable', code, `${subject ?? url}: ${why}`, { data: { url } });
  }

  /** Closes the kept connections of this client. */
  close(): void {
    this.#ownPool?.close();
    this.#bulk?.close();
  }

  /** @returns undefined where the request is one for node:http */
  async #overBulk<T>(
    url: URL,
    request: HttpRequest,
    read: (answer: HttpAnswer) => Promise<T>,
  ): Promise<{ read: T } | undefined> {
    const { method = 'GET', headers, bulkBytes } = request;
    if (method !== 'GET' || bulkBytes === undefined || !this.#bulk || !this.#isPlain) return undefined;
    if (this.#connections.proxies.for(url)) return undefined;
    const all = { ...this.#options.headers, ...headers };
    try {
      const asked = { ...request, headers: all, maxBytes: bulkBytes };
      return {
        read: await this.#bulk.get(url, asked, answer => read({ ...answer, body: whole(answer) })),
      };
    } catch (error) {
      if (!(error instanceof NotPlain)) throw error;
      this.#isPlain = false;
      if (request.isPaid) {
        if (error.receivedBytes > 0) request.onDropped?.(error.receivedBytes);
        throw error;
      }
      // What is in no plain form is read by node:http, with its bounds.
      return undefined;
    }
  }

  async #exchange<T>(url: URL, request: HttpRequest, read: (answer: HttpAnswer) => Promise<T>): Promise<T> {
    const signal = signalOf(request);
    const bulk = await this.#overBulk(url, { ...request, signal }, read);
    if (bulk) return bulk.read;
    const { method = 'GET', headers, body } = request;
    const init = {
      method,
      headers: { ...this.#options.headers, ...headers, ...(body && { 'content-length': body.length }) },
    };
    for (let isRetry = false; ; isRetry = true) {
      signal?.throwIfAborted();
      const sent = (this.#ownPool ?? this.#connections.shared).request(url, init);
      let isAnswered = false;
      try {
        return await limited(sent, request, signal, async () => {
          const response = await answerTo(sent, body);
          isAnswered = true;
          if (request.bulkBytes !== undefined) this.#isPlain = isPlain(response);
          return await read({ status: response.statusCode ?? 0, headers: response.headers, body: response });
        });
      } catch (error) {
        signal?.throwIfAborted();
        const isRepeatable = !isAnswered || isRepeatableAfter(request);
        if (!isRetry && isRepeatable && isStale(sent, error)) continue;
        throw error;
      } finally {
        // Ends an answer that wasn't read to its end. A connection that can be used again has been released by now.
        sent.destroy();
      }
    }
  }
}

/** It changes nothing at the server, and costs nothing. */
function isRepeatableAfter({ method = 'GET', isPaid = false }: HttpRequest): boolean {
  return (method === 'GET' || method === 'HEAD') && !isPaid;
}

function isPlain({ statusCode, httpVersion, headers }: IncomingMessage): boolean {
  const isWhole = headers['content-length'] !== undefined && headers['transfer-encoding'] === undefined;
  return statusCode === 200 && httpVersion === '1.1' && isWhole;
}

async function* whole({ body }: BulkAnswer): AsyncGenerator<Buffer> {
  yield await body;
}

/** @throws an Error that says so, for a redirect */
export function refuseRedirect({ status }: HttpAnswer): void {
  if (REDIRECTS.has(status)) throw new Error(`it answered with status ${status}: redirects are not followed`);
}

/**
 * Reads a whole body.
 * @param onPiece is awaited after each piece, before the next is read; it slows the sender down
 * @returns undefined as soon as it is longer than `maxBytes`; the connection ends then
 */
export async function readBounded(
  body: AsyncIterable<Buffer>,
  maxBytes: number,
  onPiece?: (lengthBytes: number) => Promise<void> | undefined,
): Promise<Buffer | undefined> {
  const pieces: Buffer[] = [];
  let lengthBytes = 0;
  for await (const piece of body) {
    lengthBytes += piece.length;
    if (lengthBytes > maxBytes) return undefined;
    pieces.push(piece);
    await onPiece?.(piece.length);
  }
  const [first] = pieces;
  return pieces.length === 1 && first ? first : Buffer.concat(pieces, lengthBytes);
}

/**
 * An answer's body, while it is said how much the server sends for it: all that it declares at once, since that may be on its way by
 * then, whatever becomes of the answer; without a declared length, piece by piece.
 * @param maxBytes that are read of it
 */
export function metered(
  { headers, body }: Pick<HttpAnswer, 'headers' | 'body'>,
  maxBytes: number,
  onSent: ((lengthBytes: number) => void) | undefined,
): AsyncIterable<Buffer> {
  if (!onSent) return body;
  const declared = Number(headers['content-length'] ?? Number.NaN);
  if (!Number.isSafeInteger(declared) || declared < 0) return eachTold(body, maxBytes, onSent);
  onSent(Math.min(declared, maxBytes));
  return body;
}

async function* eachTold(
  body: AsyncIterable<Buffer>,
  maxBytes: number,
  onSent: (lengthBytes: number) => void,
): AsyncGenerator<Buffer> {
  let leftBytes = maxBytes;
  for await (const piece of body) {
    const lengthBytes = Math.min(piece.length, leftBytes);
    leftBytes -= lengthBytes;
    onSent(lengthBytes);
    yield piece;
  }
}

function signalOf({ signal, timeoutMs }: HttpRequest): AbortSignal | undefined {
  if (timeoutMs === undefined) return signal;
  const timeout = AbortSignal.timeout(timeoutMs);
  return signal ? AbortSignal.any([signal, timeout]) : timeout;
}

function isStale(sent: ClientRequest, error: unknown): boolean {
  return sent.reusedSocket && isSystemError(error, 'ECONNRESET', 'EPIPE');
}

/** Runs `act` until the signal, the silence or the deadline ends the request below it. */
async function limited<T>(
  sent: ClientRequest,
  { silenceMs, silenceText, deadlineMs }: HttpRequest,
  signal: AbortSignal | undefined,
  act: () => Promise<T>,
): Promise<T> {
  let deadline: NodeJS.Timeout | undefined;
  const stop = (): void => void sent.destroy(new Error('aborted'));
  signal?.addEventListener('abort', stop, { once: true });
  if (silenceMs !== undefined)
    sent.setTimeout(silenceMs, () => {
      sent.destroy(new Error(silenceText ?? `nothing came for ${silenceMs} ms`));
    });
  if (deadlineMs !== undefined)
    sent.once('socket', () => {
      deadline = setTimeout(() => sent.destroy(new Error(`not done in ${deadlineMs} ms`)), deadlineMs);
    });
  try {
    return await act();
  } finally {
    clearTimeout(deadline);
    signal?.removeEventListener('abort', stop);
  }
}

function answerTo(sent: ClientRequest, body: Uint8Array | undefined): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    sent.once('response', resolve);
    // The listener stays: a failure after the start of the answer comes out of the answer's stream as well.
    sent.on('error', reject);
    sent.end(body);
  });
}

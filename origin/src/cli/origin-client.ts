import { type ErrorCode, type ErrorKind, SitecastError } from '@sitecast/shared/errors';
import { Agent, type Dispatcher, request } from 'undici';
import { z } from 'zod';

const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** Checking every chunk of a large release takes the origin a while before it answers. */
const ANSWER_TIMEOUT_MS = 15 * 60_000;
const IDLE_TIMEOUT_MS = 60_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** Uploads run side by side; each has a connection of its own. */
const MAX_CONNECTIONS = 8;

const KIND_OF_STATUS = new Map<number, ErrorKind>([
  [400, 'badInput'],
  [401, 'unauthenticated'],
  [403, 'forbidden'],
  [404, 'notFound'],
  [409, 'conflict'],
  [413, 'tooLarge'],
  [422, 'untrusted'],
  [429, 'unreachable'],
  [503, 'unreachable'],
  [507, 'noSpace'],
]);

/** RFC 9457, as far as we read it: an answer may come from a proxy in between, so nothing in it is taken for granted. */
const problemSchema = z.object({
  code: z.string().regex(/^SITECAST_[A-Z0-9_]{1,64}$/),
  detail: z.string().max(8192),
  hint: z.string().max(1024).optional(),
});

export interface OriginRequest {
  method?: 'GET' | 'POST' | 'PUT' | 'DELETE';
  json?: unknown;
  bytes?: Uint8Array;
  signal?: AbortSignal | undefined;
}

/** Speaks to an origin's `/api/v1` with an operator's token. Every failure is a SitecastError that says what to do. */
export class OriginClient {
  readonly url: URL;
  readonly #token: string | undefined;
  readonly #connections = new Agent({
    connections: MAX_CONNECTIONS,
    connect: { timeout: CONNECT_TIMEOUT_MS },
    headersTimeout: ANSWER_TIMEOUT_MS,
    bodyTimeout: IDLE_TIMEOUT_MS,
  });

  constructor(origin: string, token: string | undefined) {
    this.url = parseOriginUrl(origin);
    this.#token = token;
  }

  async json<T>(path: string, schema: z.ZodType<T>, request: OriginRequest = {}): Promise<T> {
    const bytes = await this.bytes(path, request);
    let value: unknown;
    try {
      value = JSON.parse(bytes.toString('utf8'));
    } catch (error) {
      throw this.#notAnOrigin(path, error);
    }
    const parsed = schema.safeParse(value);
    if (!parsed.success) throw this.#notAnOrigin(path, parsed.error);
    return parsed.data;
  }

  /**
   * The answer's body. A request's `bytes` may be overwritten once it has settled: they aren't copied.
   * @throws SITECAST_ORIGIN_UNREACHABLE, or what the origin answered
   */
  async bytes(path: string, options: OriginRequest = {}): Promise<Buffer> {
    try {
      const answer = await request(new URL(path.slice(1), this.url), this.#requestOf(options));
      const body = await readBounded(answer.body, MAX_ANSWER_BYTES);
      // Redirects aren't followed: one would hand the token to whoever it names.
      if (answer.statusCode >= 200 && answer.statusCode < 300) return body;
      throw this.#refusal(path, answer.statusCode, body);
    } catch (error) {
      if (error instanceof SitecastError || options.signal?.aborted) throw error;
      throw new SitecastError(
        'unreachable',
        'SITECAST_ORIGIN_UNREACHABLE',
        `no answer from ${this.url.href}: ${error instanceof Error ? error.message : String(error)}`,
        { hint: 'is the origin running, and is --origin right?', cause: error },
      );
    }
  }

  #requestOf({
    method = 'GET',
    json,
    bytes,
    signal,
  }: OriginRequest): Omit<Dispatcher.RequestOptions, 'origin' | 'path'> & { dispatcher: Dispatcher } {
    const headers: Record<string, string> = { accept: 'application/json' };
    if (this.#token !== undefined) headers.authorization = `Bearer ${this.#token}`;
    if (json !== undefined) headers['content-type'] = 'application/json';
    else if (bytes !== undefined) headers['content-type'] = 'application/octet-stream';
    const body = json === undefined ? (bytes ?? null) : JSON.stringify(json);
    return { method, headers, body, dispatcher: this.#connections, ...(signal && { signal }) };
  }

  #refusal(path: string, status: number, body: Buffer): SitecastError {
    const kind = KIND_OF_STATUS.get(status) ?? 'failed';
    let problem: unknown;
    try {
      problem = JSON.parse(body.toString('utf8'));
    } catch {
      // Not JSON: a proxy's page, say. The status speaks for itself below.
    }
    const parsed = problemSchema.safeParse(problem);
    if (!parsed.success) {
      const message = `${this.url.href} answered ${status} to ${path}`;
      return new SitecastError(kind, 'SITECAST_ORIGIN_ANSWER', message, {
        hint: 'is --origin the address of a Sitecast origin?',
      });
    }
    const { code, detail, hint } = parsed.data;
    // The schema's pattern has just shown that it is one.
    const errorCode: ErrorCode = `SITECAST_${code.slice('SITECAST_'.length)}`;
    return new SitecastError(kind, errorCode, detail, hint === undefined ? {} : { hint });
  }

  #notAnOrigin(path: string, cause: unknown): SitecastError {
    return new SitecastError(
      'failed',
      'SITECAST_ORIGIN_ANSWER',
      `${this.url.href} gave an answer to ${path} that isn't an origin's`,
      {
        hint: 'is --origin the address of a Sitecast origin of this version?',
        cause,
      },
    );
  }
}

function parseOriginUrl(text: string): URL {
  let url: URL;
  try {
    url = new URL(text.endsWith('/') ? text : `${text}/`);
  } catch {
    // The platform's message says no more than ours does.
    throw badUrl(text);
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw badUrl(text);
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') throw badUrl(text);
  return url;
}

function badUrl(text: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_ORIGIN_URL', `${text} is not an origin's address`, {
    hint: 'give it as http://host:port or https://host',
  });
}

async function readBounded(parts: AsyncIterable<Buffer>, maxBytes: number): Promise<Buffer> {
  const kept: Buffer[] = [];
  let lengthBytes = 0;
  for await (const part of parts) {
    lengthBytes += part.length;
    if (lengthBytes > maxBytes) {
      throw new SitecastError(
        'tooLarge',
        'SITECAST_ORIGIN_ANSWER',
        `an answer of more than ${maxBytes} bytes`,
      );
    }
    kept.push(part);
  }
  return Buffer.concat(kept, lengthBytes);
}

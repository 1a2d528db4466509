import { problemSchema } from '@sitecast/shared/api';
import { type ErrorCode, type ErrorKind, SitecastError } from '@sitecast/shared/errors';
import { MAX_DETAIL_CHARS, MAX_HINT_CHARS } from '@sitecast/shared/http-problem';
import { Connections, HttpClient, readBounded } from '@sitecast/shared/outbound';
import { z } from 'zod';

const MAX_ANSWER_BYTES = 64 * 1024 * 1024;
/** The origin checks every chunk of a large release before it answers, which takes a while. */
const SILENCE_TIMEOUT_MS = 15 * 60_000;
/** Uploads run in parallel; each has a connection of its own. */
const MAX_CONNECTIONS = 8;
const NO_BODY = new Uint8Array(0);

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

/** Codes whose status suggests a retry, although waiting doesn't help here. */
const KIND_OF_CODE = new Map<string, ErrorKind>([
  ['SITECAST_ONLINE_KEY_MISSING', 'failed'],
  ['SITECAST_CLOCK_AHEAD', 'failed'],
  ['SITECAST_CLOCK_NEVER_SET', 'failed'],
]);

/** An origin's error. A proxy may have given the answer instead, so nothing in it is taken for granted. */
const originProblemSchema = problemSchema.pick({ code: true, detail: true, hint: true, data: true }).extend({
  code: z.string().regex(/^SITECAST_[A-Z0-9_]{1,64}$/),
  detail: z.string().max(MAX_DETAIL_CHARS),
  hint: z.string().max(MAX_HINT_CHARS).optional(),
  data: problemSchema.shape.data.catch(undefined),
});

export interface OriginRequest {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  json?: unknown;
  bytes?: Uint8Array;
  signal?: AbortSignal | undefined;
}

interface Answer {
  status: number;
  /** The origin's clock; undefined where the answer lacks it. */
  dateMs: number | undefined;
  body: Buffer;
}

/** A client of an origin's `/api/v1`, with an operator's token. Every failure is a SitecastError with a hint. */
export class OriginClient {
  readonly url: URL;
  readonly connections: Connections;
  readonly #token: string | undefined;
  readonly #http: HttpClient;

  constructor(origin: string, token: string | undefined, connections = Connections.direct) {
    this.url = parseOriginUrl(origin);
    this.#token = token;
    this.connections = connections;
    this.#http = new HttpClient(this.url.href, {
      connections,
      maxSockets: MAX_CONNECTIONS,
      code: 'SITECAST_ORIGIN_UNREACHABLE',
      hint: 'is the origin running, and is --origin right?',
      subject: `no answer from ${this.url.href}`,
    });
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
   * Sends a request. @returns the body of the answer. The request's `bytes` aren't copied: they may be overwritten once it has settled.
   * @throws SITECAST_ORIGIN_UNREACHABLE, or the error in the origin's answer
   */
  async bytes(path: string, options: OriginRequest = {}): Promise<Buffer> {
    const { status, body } = await this.#answer(path, options);
    // Redirects aren't followed: one would hand the token to another host.
    if (status >= 200 && status < 300) return body;
    throw this.#refusal(path, status, body);
  }

  /**
   * The origin's clock, milliseconds since 1970; undefined where its answer lacks it.
   * @throws SITECAST_ORIGIN_UNREACHABLE
   */
  async clockMs(): Promise<number | undefined> {
    return (await this.#answer('/healthz', {})).dateMs;
  }

  #answer(path: string, { method = 'GET', json, bytes, signal }: OriginRequest): Promise<Answer> {
    const headers: Record<string, string> = { accept: 'application/json' };
    if (this.#token !== undefined) headers.authorization = `Bearer ${this.#token}`;
    if (json !== undefined) headers['content-type'] = 'application/json';
    else if (bytes !== undefined) headers['content-type'] = 'application/octet-stream';
    const request = {
      method,
      headers,
      body: json === undefined ? (bytes ?? NO_BODY) : Buffer.from(JSON.stringify(json)),
      signal,
      silenceMs: SILENCE_TIMEOUT_MS,
      silenceText: `silence for ${SILENCE_TIMEOUT_MS / 60_000} minutes`,
    };
    return this.#http.exchange(path.slice(1), request, async answer => {
      const body = await readBounded(answer.body, MAX_ANSWER_BYTES);
      if (!body) throw answerTooLong();
      const dateMs = Date.parse(answer.headers.date ?? '');
      return { status: answer.status, dateMs: Number.isNaN(dateMs) ? undefined : dateMs, body };
    });
  }

  #refusal(path: string, status: number, body: Buffer): SitecastError {
    const kind = KIND_OF_STATUS.get(status) ?? 'failed';
    let problem: unknown;
    try {
      problem = JSON.parse(body.toString('utf8'));
    } catch {
      // The body is no JSON, for example a proxy's page. The status below suffices.
    }
    const parsed = originProblemSchema.safeParse(problem);
    if (!parsed.success) {
      const message = `${this.url.href} answered ${status} to ${path}`;
      return new SitecastError(kind, 'SITECAST_ORIGIN_ANSWER', message, {
        hint: 'is --origin the address of a Sitecast origin?',
      });
    }
    const { code, detail, hint, data } = parsed.data;
    // The schema's pattern has checked that it is a code.
    const errorCode: ErrorCode = `SITECAST_${code.slice('SITECAST_'.length)}`;
    return new SitecastError(KIND_OF_CODE.get(code) ?? kind, errorCode, detail, {
      ...(hint !== undefined && { hint }),
      ...(data !== undefined && { data }),
    });
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
    // The platform's message adds nothing to ours.
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

function answerTooLong(): SitecastError {
  return new SitecastError(
    'tooLarge',
    'SITECAST_ORIGIN_ANSWER',
    `an answer of more than ${MAX_ANSWER_BYTES} bytes`,
  );
}

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { SitecastError } from '../../errors.ts';
import { statusOf } from '../../http-problem/index.ts';
import {
  MAX_CLOCK_SKEW_MS,
  NonceMemory,
  ORIGIN_RECEIVER,
  Receiver,
  verifyRequest,
} from '../../http-signature/index.ts';
import { ENDLESS } from '../../trust/testing/index.ts';
import { applyFault, type Fault, type Misbehaviour, sendEndless, sendFile } from './faults.ts';
import type { FleetRepository } from './fleet-repository.ts';

const MAX_BODY_BYTES = 4 * 1024 * 1024;

/** A request to the site API. */
export interface SiteRequest {
  method: string;
  /** The part of the path behind `/site/v1/`. */
  path: string;
  /** The body of a POST whose signature is verified; undefined for other methods. */
  json: unknown;
  /** Sends the answer. */
  send: (status: number, body: object) => void;
}

type Files = ReadonlyMap<string, Uint8Array | typeof ENDLESS>;

/** A server for tests: the files of a repository, long polls, signed requests to a site API, and faults, over real sockets. */
export abstract class FakeServer {
  readonly repository: FleetRepository;
  /** Method and path of every request, in order: `GET /metadata/timestamp.json`. */
  readonly requests: string[] = [];
  /** Files that were sent, or begun to be, in order: their bodies' lengths in bytes. */
  readonly served: { path: string; lengthBytes: number }[] = [];
  misbehave: Misbehaviour | undefined;
  /** Serves these files instead of the repository's, as a server does that has fallen behind. */
  frozen: Files | undefined;
  /** Answers each long poll at once, as if something had changed. */
  alwaysChanged = false;
  /** Milliseconds by which this server's clock differs from the real time. */
  clockOffsetMs = 0;
  #port = 0;
  readonly #server: Server;
  readonly #waiting = new Set<() => void>();
  /** Whom signed requests have to be meant for. */
  protected readonly receiver: Receiver = new Receiver(ORIGIN_RECEIVER);
  readonly #nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);

  constructor(repository: FleetRepository) {
    this.repository = repository;
    repository.onPublished(() => {
      for (const wake of this.#waiting) wake();
    });
    this.#server = createServer((request, response) => {
      this.#handle(request, response).catch((error: unknown) => {
        if (response.headersSent) response.destroy();
        else sendProblem(response, error);
      });
    });
  }

  /** Answers a request to the site API correctly. */
  protected abstract answerSite(request: SiteRequest): Promise<void>;

  /** Listens at a free port; after `close`, at the same port again. */
  async listen(port = this.#port): Promise<void> {
    await new Promise<void>(resolve => this.#server.listen(port, '127.0.0.1', resolve));
    const address = this.#server.address();
    if (typeof address === 'object' && address) this.#port = address.port;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise(resolve => this.#server.close(resolve));
  }

  get port(): number {
    return this.#port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** The number of requests whose method and path contain `part`. */
  count(part: string): number {
    return this.requests.filter(line => line.includes(part)).length;
  }

  /** What is served under a path. */
  fileAt(path: string): Buffer {
    const found = this.#files.get(path.replace(/^\//, ''));
    if (!(found instanceof Uint8Array)) throw new Error(`there is no ${path}`);
    return Buffer.from(found);
  }

  get #files(): Files {
    return this.frozen ?? this.repository.files;
  }

  get #nowMs(): number {
    return Date.now() + this.clockOffsetMs;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = decodeURIComponent(request.url ?? '/');
    this.requests.push(`${request.method} ${path}`);
    response.setHeader('date', new Date(this.#nowMs).toUTCString());
    const fault = this.misbehave?.(path, request);
    if (fault !== undefined && applyFault(fault, response)) return;
    if (path === '/healthz') {
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"status":"ok"}');
      return;
    }
    if (!path.startsWith('/site/v1/')) {
      await this.#serve(path.slice(1), { request, response, fault });
      return;
    }
    await this.answerSite({
      method: request.method ?? 'GET',
      path: path.slice('/site/v1/'.length),
      json: request.method === 'POST' ? await this.#readSigned(request) : undefined,
      send: (status, body) => {
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
      },
    });
  }

  async #serve(
    path: string,
    {
      request,
      response,
      fault,
    }: { request: IncomingMessage; response: ServerResponse; fault: Fault | undefined },
  ): Promise<void> {
    const newest = (): Uint8Array | typeof ENDLESS | undefined =>
      Buffer.isBuffer(fault) ? fault : this.#files.get(path);
    const isKnown = (): boolean =>
      !this.alwaysChanged && request.headers['if-none-match'] === etagOf(newest());
    if (isKnown()) await this.#waitForChange(request, response);
    const bytes = newest();
    if (bytes === undefined) {
      applyFault('missing', response);
      return;
    }
    response.setHeader('etag', this.alwaysChanged ? `"${this.requests.length}"` : etagOf(bytes));
    if (isKnown()) response.writeHead(304).end();
    else if (bytes === ENDLESS) sendEndless(response);
    else {
      if (request.method !== 'HEAD') this.served.push({ path, lengthBytes: bytes.length });
      sendFile(response, bytes, fault);
    }
  }

  /** Waits for as long as the requester wants to wait, or until something is published. */
  async #waitForChange(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const waitS = Number(/wait=(\d+)/.exec(String(request.headers.prefer ?? ''))?.[1] ?? 0);
    if (waitS === 0) return;
    await new Promise<void>(resolve => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, waitS * 1000);
      this.#waiting.add(wake);
      response.once('close', wake);
    });
  }

  async #readSigned(request: IncomingMessage): Promise<unknown> {
    const body = await readBody(request);
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    );
    await verifyRequest(
      { method: 'POST', url: `${this.url}${request.url}`, headers, body },
      { nowMs: this.#nowMs, nonces: this.#nonces, receiver: this.receiver, isWelcome: () => true },
    );
    return JSON.parse(body.toString());
  }
}

function etagOf(bytes: Uint8Array | typeof ENDLESS | undefined): string {
  if (!(bytes instanceof Uint8Array)) return '""';
  return `"${createHash('sha256').update(bytes).digest('hex')}"`;
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  let lengthBytes = 0;
  for await (const part of request) {
    const bytes = Buffer.from(part);
    lengthBytes += bytes.length;
    if (lengthBytes > MAX_BODY_BYTES) throw new Error('too large');
    parts.push(bytes);
  }
  return Buffer.concat(parts);
}

function sendProblem(response: ServerResponse, error: unknown): void {
  const isOurs = error instanceof SitecastError;
  const status = isOurs ? statusOf(error) : 400;
  const problem = {
    title: 'refused',
    status,
    code: isOurs ? error.code : 'SITECAST_INTERNAL',
    detail: isOurs ? error.message : String(error),
    data: isOurs ? error.data : {},
  };
  response.writeHead(status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem));
}

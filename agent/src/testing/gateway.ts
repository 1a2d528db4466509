import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { received, relayedEnrolmentRequestSchema, reportsRequestSchema } from '@sitecast/shared/api';
import { readEnrolment, readReport, type Report } from '@sitecast/shared/fleet';
import { MAX_CLOCK_SKEW_MS, NonceMemory, verifyRequest } from '@sitecast/shared/http-signature';
import { type Envelope, fastVerifyById } from '@sitecast/shared/identity';
import { SitecastError } from '@sitecast/shared/errors';
import { readBody, sendEndless, sendJson, sendOr404, sendProblem, tampered } from './http-answers.ts';
import type { TestFleet } from './fleet.ts';

const enrolmentReader = received(relayedEnrolmentRequestSchema);
const reportsReader = received(reportsRequestSchema);

/** What a fake gateway does to a request instead of answering it. */
export type Mischief =
  | 'tamper'
  | 'truncate'
  | 'endless'
  | 'hang'
  | 'drop'
  | 'missing'
  | 'broken'
  /** A captive portal: answers everything with a page of its own, with status 200. */
  | 'portal'
  /** The same in JSON. */
  | 'otherJson'
  /** Leads elsewhere. */
  | 'redirect'
  /** Bytes to send in place of the right ones. */
  | Buffer;

const PAGE = '<!DOCTYPE html><title>Welcome</title><a href="/login">Please log in</a>';
const ANSWERS_TO_ALL = new Map<
  Mischief | undefined,
  { status: number; headers: Record<string, string>; body: string }
>([
  ['broken', { status: 500, headers: {}, body: 'broken' }],
  ['portal', { status: 200, headers: { 'content-type': 'text/html', etag: '"portal"' }, body: PAGE }],
  [
    'otherJson',
    {
      status: 200,
      headers: { 'content-type': 'application/json' },
      body: '{"login":"https://portal.example"}',
    },
  ],
  ['redirect', { status: 302, headers: { location: 'http://127.0.0.1:9/login' }, body: '' }],
]);

const FORGED = { assignment: { payloadType: 'x', payload: '', signatures: [] } };
const POLL_STEP_MS = 20;

/** What the origin keeps, shared by the fake gateways of a test. */
export class FakeOrigin {
  readonly fleet: TestFleet;
  readonly assignments = new Map<string, Envelope>();
  /** By id and epoch, then seq. */
  readonly reports = new Map<string, Report[]>();
  /** Reports with the number of another report: a cloned device sends those. */
  readonly conflicts: Report[] = [];
  /** False: new devices wait for an operator. */
  acceptsNewcomers = true;
  /** False: reports are taken, but nothing is acknowledged. */
  acknowledges = true;
  readonly #payloads = new Map<string, string>();
  readonly #verify = fastVerifyById();

  constructor(fleet: TestFleet) {
    this.fleet = fleet;
  }

  /** Another one that has the same. */
  clone(): FakeOrigin {
    const clone = new FakeOrigin(this.fleet);
    for (const [id, assignment] of this.assignments) clone.assignments.set(id, assignment);
    for (const [chain, reports] of this.reports) clone.reports.set(chain, [...reports]);
    for (const [key, payload] of this.#payloads) clone.#payloads.set(key, payload);
    return clone;
  }

  /** Everything that a device has reported, in its order, over all epochs. */
  told(id: string): Report[] {
    return [...this.reports].filter(([key]) => key.startsWith(`${id} `)).flatMap(([, reports]) => reports);
  }

  async enrol(envelope: unknown): Promise<Envelope | undefined> {
    const unverified = readEnrolment(envelope);
    const { id } = unverified.document;
    unverified.verify([id], this.#verify);
    if (!this.acceptsNewcomers) return this.assignments.get(id);
    const assignment = this.assignments.get(id) ?? (await this.fleet.assign(id));
    this.assignments.set(id, assignment);
    return assignment;
  }

  take(envelope: unknown): void {
    const unverified = readReport(envelope);
    const report = unverified.verify([unverified.document.id], this.#verify);
    const key = `${report.id} ${report.epoch}`;
    const chain = this.reports.get(key) ?? [];
    this.reports.set(key, chain);
    const known = chain[report.seq - 1];
    if (known) {
      const isSame = this.#payloads.get(`${key} ${report.seq}`) === sha256(unverified.payload);
      if (!isSame) this.conflicts.push(report);
      return;
    }
    const before = chain.at(-1);
    const previous = before ? this.#payloads.get(`${key} ${before.seq}`) : null;
    if (report.seq !== chain.length + 1 || report.previous !== previous)
      throw new SitecastError(
        'conflict',
        'SITECAST_REPORT_GAP',
        `report ${report.seq} doesn't continue a chain of ${chain.length}`,
      );
    chain.push(report);
    this.#payloads.set(`${key} ${report.seq}`, sha256(unverified.payload));
  }

  async acknowledgementOf(id: string): Promise<Envelope | undefined> {
    const [newest] = [...this.reports].filter(([key]) => key.startsWith(`${id} `)).reverse();
    const last = newest?.[1].at(-1);
    if (!last || !this.acknowledges) return undefined;
    return this.fleet.acknowledge(id, last.epoch, last.seq);
  }
}

/** A gateway for tests, over real HTTP, that can misbehave. */
export class FakeGateway {
  readonly origin: FakeOrigin;
  /** Asked for each request. */
  mischief: (path: string) => Mischief | undefined = () => undefined;
  /** Serves these files instead of the origin's: a gateway that has fallen behind. */
  frozen: Map<string, Buffer> | undefined;
  /** Answers a request for a lease; undefined: it knows no leases. */
  lease: (() => { granted: boolean; retryAfterMs?: number; heldBy?: unknown }) | undefined;
  /** A problem (RFC 9457) to answer instead. */
  leaseProblem: { code: string; detail: string } | undefined;
  /** Claims at each wait that something has changed. */
  alwaysChanged = false;
  /** Why a report is refused for its content; undefined: it is taken. */
  judge: (report: Report) => string | undefined = () => undefined;
  /** Refuses each report by itself; or, as gateways of the first release do, the whole request. */
  refuses: 'each' | 'whole' = 'each';
  /** Seconds after which it says that it takes what it refuses. */
  retryAfterS: number | undefined;
  /** Says that it takes reports, and passes neither reports nor acknowledgements on. */
  swallowsReports = false;
  /** Its answer about every device, whatever the origin does. */
  ofDevices: 'pending' | 'forged' | undefined;
  /** Earlier refusals that it adds to its answers to reports. */
  rejectedEarlier: object[] = [];
  /** Milliseconds by which this gateway's clock differs from the real time. */
  clockOffsetMs = 0;
  readonly requests: string[] = [];
  readonly progress: unknown[] = [];
  readonly #server: Server;
  readonly #nonces = new NonceMemory(2 * MAX_CLOCK_SKEW_MS);

  private constructor(origin: FakeOrigin, server: Server) {
    this.origin = origin;
    this.#server = server;
  }

  static async open(origin: FakeOrigin, port = 0): Promise<FakeGateway> {
    const server = createServer();
    const site = new FakeGateway(origin, server);
    server.on('request', (request, response) => {
      site.#handle(request, response).catch((error: unknown) => {
        if (!response.headersSent) sendProblem(response, error);
        else response.destroy();
      });
    });
    await new Promise<void>(resolve => {
      server.listen(port, '127.0.0.1', resolve);
    });
    return site;
  }

  get port(): number {
    const address: string | AddressInfo | null = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Requests for paths that begin with `prefix`. */
  count(prefix: string): number {
    return this.requests.filter(path => path.startsWith(prefix)).length;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>(resolve => {
      this.#server.close(() => resolve());
    });
  }

  get #nowMs(): number {
    return Date.now() + this.clockOffsetMs;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? '/';
    this.requests.push(path);
    response.setHeader('date', new Date(this.#nowMs).toUTCString());
    const mischief = this.mischief(path);
    if (mischief === 'hang') return;
    if (mischief === 'drop') {
      response.destroy();
      return;
    }
    const answer = ANSWERS_TO_ALL.get(mischief);
    if (answer) {
      response.writeHead(answer.status, answer.headers).end(answer.body);
      return;
    }
    if (request.method === 'POST') await this.#post(path, request, response);
    else if (path.startsWith('/site/')) await this.#get(path, response);
    else await this.#serve(path, { request, response, mischief });
  }

  async #serve(
    path: string,
    {
      request,
      response,
      mischief,
    }: {
      request: IncomingMessage;
      response: ServerResponse;
      mischief: Mischief | undefined;
    },
  ): Promise<void> {
    const files = () => this.frozen ?? this.origin.fleet.files;
    const found = Buffer.isBuffer(mischief) ? mischief : files().get(path);
    if (!found || mischief === 'missing') {
      response.writeHead(404).end();
      return;
    }
    const bytes = await this.#waitForChange(path, request, found, files);
    if (!bytes) {
      response.writeHead(304, { etag: etagOf(found) }).end();
      return;
    }
    if (mischief === 'endless') {
      sendEndless(response);
      return;
    }
    response.setHeader('etag', this.alwaysChanged ? `"${this.requests.length}"` : etagOf(bytes));
    response.setHeader('content-length', bytes.length);
    if (mischief === 'truncate') {
      response.write(bytes.subarray(0, bytes.length - 1), () => response.destroy());
      return;
    }
    response.end(mischief === 'tamper' ? tampered(bytes) : bytes);
  }

  /** @returns undefined if the requester has the newest already */
  async #waitForChange(
    path: string,
    request: IncomingMessage,
    found: Buffer,
    files: () => Map<string, Buffer>,
  ): Promise<Buffer | undefined> {
    const etag = request.headers['if-none-match'];
    if (etag === undefined || this.alwaysChanged) return found;
    const waitSeconds = Number(/wait=(\d+)/.exec(String(request.headers.prefer ?? ''))?.[1] ?? 0);
    for (let leftMs = waitSeconds * 1000; ; leftMs -= POLL_STEP_MS) {
      const bytes = files().get(path);
      if (bytes && (this.alwaysChanged || etagOf(bytes) !== etag)) return bytes;
      if (leftMs <= 0 || request.destroyed) return undefined;
      await new Promise(resolve => {
        setTimeout(resolve, POLL_STEP_MS);
      });
    }
  }

  async #get(path: string, response: ServerResponse): Promise<void> {
    const [, , , kind, id = ''] = path.split('/');
    if (kind === 'assignments' && this.ofDevices === 'forged') sendJson(response, 200, FORGED);
    else if (kind === 'assignments' && this.ofDevices) sendOr404(response, 'assignment', undefined);
    else if (kind === 'assignments') sendOr404(response, 'assignment', this.origin.assignments.get(id));
    else if (this.swallowsReports) sendOr404(response, 'acknowledgement', undefined);
    else sendOr404(response, 'acknowledgement', await this.origin.acknowledgementOf(id));
  }

  /** @returns the reports that were refused */
  #takeReports(envelopes: readonly unknown[]): object[] {
    const rejected: object[] = [];
    const codes = envelopes.map(envelope => this.judge(readReport(envelope).document));
    const whole = this.refuses === 'whole' ? codes.find(code => code !== undefined) : undefined;
    if (whole !== undefined)
      throw new SitecastError('badInput', `SITECAST_${whole}`, 'the request is refused', {
        data: { retryAfterS: this.retryAfterS },
      });
    for (const [index, envelope] of envelopes.entries()) {
      const code = codes[index];
      if (code !== undefined)
        rejected.push({ index, code: `SITECAST_${code}`, retryAfterS: this.retryAfterS });
      else this.#take(envelope);
    }
    return [...rejected, ...this.rejectedEarlier];
  }

  #take(envelope: unknown): void {
    try {
      this.origin.take(envelope);
    } catch (error) {
      if (!isGap(error)) throw error;
    }
  }

  async #post(path: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readBody(request);
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    );
    await verifyRequest(
      { method: 'POST', url: this.url + path, headers, body },
      { nowMs: this.#nowMs, nonces: this.#nonces, isWelcome: () => true },
    );
    const json: unknown = JSON.parse(body.toString('utf8'));
    switch (path) {
      case '/site/v1/enrolments': {
        if (this.ofDevices === 'forged') {
          sendJson(response, 200, FORGED);
          return;
        }
        const { envelope } = enrolmentReader.parse(json);
        const assignment = this.ofDevices ? undefined : await this.origin.enrol(envelope);
        if (assignment) sendJson(response, 200, { assignment });
        else sendJson(response, 202, { state: 'pending' });
        return;
      }
      case '/site/v1/reports': {
        const { reports: envelopes = [] } = reportsReader.parse(json);
        const rejected = this.swallowsReports ? [] : this.#takeReports(envelopes);
        sendJson(response, 202, rejected.length > 0 ? { rejected } : {});
        return;
      }
      case '/site/v1/progress':
        this.progress.push(json);
        sendJson(response, 202, {});
        return;
      case '/site/v1/leases':
        if (this.leaseProblem) sendJson(response, 403, this.leaseProblem);
        else if (this.lease) sendJson(response, 200, this.lease());
        else sendJson(response, 404, {});
        return;
      default:
        sendJson(response, 404, {});
    }
  }
}

/** The origin refuses reports after a gap, which is no error in these tests. */
function isGap(error: unknown): boolean {
  return error instanceof SitecastError && error.code === 'SITECAST_REPORT_GAP';
}

function etagOf(bytes: Buffer): string {
  return `"${sha256(bytes).slice(0, 16)}"`;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

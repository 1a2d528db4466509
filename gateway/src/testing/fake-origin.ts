// For tests only: an origin that serves a correctly signed repository over real sockets, and misbehaves on command.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import {
  Chunk,
  type ChunkId,
  type ChunkIndex,
  ChunkIndexBuilder,
  chunkIdOf,
  chunkPath,
  compressFrame,
} from '@sitecast/shared/content';
import { type Presence, presenceSchema } from '@sitecast/shared/api';
import {
  type Assignment,
  formatJoinToken,
  type Report,
  type Rollout,
  readEnrolment,
  readReport,
  sealAcknowledgement,
  sealAssignment,
  serializeRollouts,
} from '@sitecast/shared/fleet';
import { NonceMemory, verifyRequest } from '@sitecast/shared/http-signature';
import type { Envelope } from '@sitecast/shared/identity';
import { type ReleaseManifest, serializeFile } from '@sitecast/shared/release';
import { KeyPair } from '@sitecast/shared/signing';
import { delegatedSigners, type RoleSigners, type Signer } from '@sitecast/shared/trust';
import { newSigner, TestRepository } from '@sitecast/shared/trust/testing';

const CHUNK_BYTES = 16 * 1024;

/** Handles a request in place of the origin. @returns whether it has handled it, or will */
export type Misbehaviour = (request: IncomingMessage, response: ServerResponse, path: string) => boolean;

export interface PublishedImage {
  image: Buffer;
  ids: ChunkId[];
  index: ChunkIndex;
  chunks: Chunk[];
}

/** An origin for tests. `misbehave` may handle a request first; all others are answered correctly. */
export class FakeOrigin {
  readonly repository: TestRepository;
  rolloutsSigner: Signer;
  /** By path below the repository: `chunks/…`. */
  readonly chunks = new Map<string, Buffer>();
  /** Method and path of every request, in order. */
  readonly requests: string[] = [];
  readonly reports: Report[] = [];
  /** How many of a device's reports there are, by id and epoch. */
  readonly assignments = new Map<string, Assignment>();
  readonly rollouts = new Map<string, Rollout[]>();
  readonly rejects = new Map<number, string>();
  /** The status of the whole answer where a request contains this report; undefined: each report gets its own answer. */
  refusesWhole: (report: Report) => number | undefined = () => undefined;
  /** Refuses these reports by their position in the request, as the origin does with unreadable ones. */
  cannotRead: (report: Report) => boolean = () => false;
  /** After how many seconds this report may come again, because its device has used up its budget. */
  putsOff: (report: Report) => number | undefined = () => undefined;
  misbehave: Misbehaviour | undefined;
  acceptsEnrolments: 'yes' | 'pending' | 'no' = 'yes';
  acknowledges = true;
  /** The presence reports of gateways; undefined: an origin of an earlier version, without this route. */
  presence: Presence[] | undefined = [];
  url = '';
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #waiting = new Set<() => void>();
  readonly #nonces = new NonceMemory(600_000);

  private constructor(repository: TestRepository, rolloutsSigner: Signer) {
    this.repository = repository;
    this.rolloutsSigner = rolloutsSigner;
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch(() => response.destroy());
    });
    this.#server.on('connection', socket => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
  }

  static async start(nowMs = Date.now()): Promise<FakeOrigin> {
    const repository = await TestRepository.create(nowMs);
    const signer = newSigner();
    repository.delegate('targets', 'rollouts', { paths: ['rollouts/*'] }, [signer]);
    await repository.publish('rollouts');
    await repository.publishWithSnapshot('targets');
    const origin = new FakeOrigin(repository, signer);
    await origin.listen();
    return origin;
  }

  async listen(): Promise<void> {
    const port = Number(new URL(this.url || 'http://127.0.0.1:0').port);
    await new Promise<void>(resolve => this.#server.listen(port, '127.0.0.1', resolve));
    const address = this.#server.address();
    if (typeof address === 'object' && address) this.url = `http://127.0.0.1:${address.port}`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise(resolve => this.#server.close(resolve));
  }

  get firstRoot(): Uint8Array {
    return this.repository.bytesOf('root', 1);
  }

  joinToken(): string {
    const sha256 = createHash('sha256').update(this.firstRoot).digest('hex');
    return formatJoinToken(this.url, sha256, KeyPair.generate());
  }

  /** Publishes a release: its chunks, index, manifest and product file. */
  async publishRelease(
    product: string,
    counter: number,
    image: Buffer,
    chunkBytes = CHUNK_BYTES,
  ): Promise<PublishedImage> {
    const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: chunkBytes, maxBytes: chunkBytes });
    const ids: ChunkId[] = [];
    const chunks: Chunk[] = [];
    for (let at = 0; at < image.length; at += chunkBytes) {
      const plain = image.subarray(at, at + chunkBytes);
      const id = chunkIdOf(plain);
      ids.push(id);
      chunks.push(Chunk.fromPlain(id, plain));
      this.chunks.set(`chunks/${chunkPath(id)}`, compressFrame(plain));
      builder.add(id, Math.min(at + chunkBytes, image.length));
    }
    const built = builder.finish();
    const index = built.encode();
    const manifest: ReleaseManifest = {
      format: 'sitecast-release-1',
      product,
      counter,
      version: `${counter}.0.0`,
      hardware: ['board'],
      image: { lengthBytes: image.length, sha256: sha256(image), chunks: ids.length },
      index: { sha256: sha256(index), lengthBytes: index.length },
      createdAt: new Date(this.repository.nowMs).toISOString(),
    };
    this.#addTarget('targets', `releases/${product}-${counter}.json`, serializeFile(manifest));
    this.#addTarget('targets', `releases/${product}-${counter}.caibx`, index);
    this.#addTarget(
      'targets',
      `products/${product}.json`,
      serializeFile({
        format: 'sitecast-product-1',
        product,
        hardware: ['board'],
        lastCounter: counter,
        floor: { counter: 0 },
      }),
    );
    await this.publish('targets');
    return { image, ids, index: built, chunks };
  }

  /** Starts a rollout to all devices. */
  async startRollout(product: string, counter: number, more: Partial<Rollout> = {}): Promise<Rollout> {
    const manifest = this.repository.targets.targets[`releases/${product}-${counter}.json`];
    const rollout: Rollout = {
      id: sha256(Buffer.from(`${product}-${counter}`)).slice(0, 16),
      release: {
        counter,
        version: `${counter}.0.0`,
        manifestSha256: manifest?.hashes.sha256 ?? '0'.repeat(64),
      },
      state: 'active',
      match: {},
      cohort: { below: null },
      offlineForMs: 86_400_000,
      maxDownBasisPoints: 2500,
      attempt: 1,
      createdAt: new Date(this.repository.nowMs).toISOString(),
      ...more,
    };
    this.rollouts.set(product, [...(this.rollouts.get(product) ?? []), rollout]);
    await this.publishRollouts(product);
    return rollout;
  }

  async publishRollouts(product: string, revoked: string[] = []): Promise<void> {
    const file = serializeRollouts({
      format: 'sitecast-rollouts-1',
      product,
      rollouts: this.rollouts.get(product) ?? [],
      revoked,
    });
    this.#addTarget('rollouts', `rollouts/${product}.json`, file);
    await this.publish('rollouts');
  }

  /** Signs the next version of a role and of all roles that refer to it, and answers waiting requests. */
  async publish(role: string): Promise<void> {
    await this.repository.publishWithSnapshot(role);
    for (const wake of this.#waiting) wake();
  }

  /** Changes the key for rollouts, assignments and acknowledgements. Documents with the old key's signature are no longer valid. */
  async rotateRollouts(): Promise<void> {
    const { delegations } = this.repository.targets;
    if (delegations) delegations.roles = delegations.roles?.filter(({ name }) => name !== 'rollouts') ?? [];
    this.repository.signers.delete('rollouts');
    this.rolloutsSigner = newSigner();
    this.repository.delegate('targets', 'rollouts', { paths: ['rollouts/*'] }, [this.rolloutsSigner]);
    await this.repository.publish('rollouts');
    await this.publish('targets');
  }

  /** Signs an assignment of a device or gateway. */
  async assign(assignment: Partial<Assignment> & { id: string }): Promise<Envelope> {
    const at = new Date(this.repository.nowMs).toISOString();
    const whole: Assignment = {
      format: 'sitecast-assignment-1',
      kind: 'device',
      product: 'camera',
      hardware: 'board',
      site: 'lisbon',
      tags: {},
      serial: (this.assignments.get(assignment.id)?.serial ?? 0) + 1,
      enrolledAt: at,
      issuedAt: at,
      ...assignment,
    };
    this.assignments.set(whole.id, whole);
    return sealAssignment(whole, this.rolloutsSigner);
  }

  /** The file of a path. */
  fileAt(path: string): Buffer {
    const found = this.chunks.get(path) ?? this.repository.files.get(path);
    if (!(found instanceof Uint8Array)) throw new Error(`there is no ${path}`);
    return Buffer.from(found);
  }

  /** Who signs assignments. */
  get rolloutsSigners(): RoleSigners {
    const { delegations } = this.repository.targets;
    const signers = delegatedSigners(delegations, 'rollouts');
    if (!signers) throw new Error('nobody signs rollouts');
    return signers;
  }

  /** How often a path was requested. */
  count(pathPart: string): number {
    return this.requests.filter(line => line.includes(pathPart)).length;
  }

  #addTarget(role: string, name: string, bytes: Buffer): void {
    this.repository.addTarget(role, name, '');
    const digest = sha256(bytes);
    this.repository.targetsOf(role).targets[name] = { length: bytes.length, hashes: { sha256: digest } };
    const [folder = '', file = ''] = name.split('/');
    this.repository.files.set(`targets/${folder}/${digest}.${file}`, bytes);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = decodeURIComponent((request.url ?? '').slice(1));
    this.requests.push(`${request.method} ${path}`);
    if (this.misbehave?.(request, response, path)) return;
    if (path.startsWith('site/v1/')) {
      await this.#answerSite(request, response, path.slice('site/v1/'.length));
      return;
    }
    if (path === 'metadata/timestamp.json') {
      await this.#answerTimestamp(request, response);
      return;
    }
    const bytes = this.chunks.get(path) ?? this.repository.files.get(path);
    if (!(bytes instanceof Uint8Array)) response.writeHead(404).end('there is none');
    else response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
  }

  async #answerTimestamp(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const wait = Number(/wait=(\d+)/.exec(String(request.headers.prefer ?? ''))?.[1] ?? 0);
    const etagNow = (): string => `"${sha256(this.repository.bytesOf('timestamp'))}"`;
    const isKnown = (): boolean => request.headers['if-none-match'] === etagNow();
    if (isKnown() && wait > 0) {
      await new Promise<void>(resolve => {
        const wake = (): void => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, wait * 1000);
        this.#waiting.add(wake);
        response.once('close', wake);
      });
    }
    if (isKnown()) response.writeHead(304, { etag: etagNow() }).end();
    else response.writeHead(200, { etag: etagNow() }).end(this.repository.bytesOf('timestamp'));
  }

  async #answerSite(request: IncomingMessage, response: ServerResponse, path: string): Promise<void> {
    const send = (status: number, json: object): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(json));
    };
    const [kind, id = ''] = path.split('/');
    if (request.method === 'GET') {
      const assignment = this.assignments.get(id);
      if (kind === 'assignments' && assignment)
        send(200, { assignment: await sealAssignment(assignment, this.rolloutsSigner) });
      else send(404, { code: 'SITECAST_NO_ASSIGNMENT' });
      return;
    }
    const body = await readAll(request);
    const headers = Object.fromEntries(
      Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
    );
    await verifyRequest(
      { method: 'POST', url: `${this.url}${request.url}`, headers, body },
      { nowMs: Date.now(), nonces: this.#nonces, isWelcome: () => true },
    );
    const json: Record<string, unknown> = JSON.parse(body.toString());
    if (kind === 'enrolments') await this.#enrol(json.envelope, send);
    else if (kind === 'reports') {
      const status = refusalOf(json.reports, this.refusesWhole);
      if (status === undefined) send(200, await this.#takeReports(json.reports));
      else send(status, { code: 'SITECAST_REQUEST_INVALID' });
    } else if (kind === 'progress') send(202, {});
    else if (kind === 'presence' && this.presence) {
      this.presence.push(presenceSchema.parse(json));
      send(200, { next: 'changes' });
    } else send(404, { code: 'SITECAST_NOT_FOUND' });
  }

  async #enrol(envelope: unknown, send: (status: number, json: object) => void): Promise<void> {
    const { id, kind, site } = readEnrolment(envelope).document;
    if (this.acceptsEnrolments === 'pending') send(202, { state: 'pending' });
    else if (this.acceptsEnrolments === 'no')
      send(403, { code: 'SITECAST_TOKEN_USED', detail: 'it was used' });
    else send(200, { assignment: await this.assign({ id, kind, ...(site === undefined ? {} : { site }) }) });
  }

  async #takeReports(envelopes: unknown): Promise<object> {
    if (!Array.isArray(envelopes)) throw new TypeError('no reports');
    const acknowledgements = new Map<string, Envelope>();
    const rejected: object[] = [];
    for (const [index, envelope] of envelopes.entries()) {
      const report = readReport(envelope).document;
      if (this.cannotRead(report)) {
        rejected.push({ index, code: 'SITECAST_DOCUMENT_MALFORMED' });
        continue;
      }
      const { id, epoch, seq } = report;
      const retryAfterS = this.putsOff(report);
      if (retryAfterS !== undefined) {
        rejected.push({ index, id, epoch, seq, code: 'SITECAST_REPORTS_OVER_BUDGET', retryAfterS });
        continue;
      }
      const code = this.rejects.get(seq);
      if (code !== undefined) rejected.push({ id, epoch, seq, code });
      const isNew = !this.reports.some(old => old.id === id && old.epoch === epoch && old.seq === seq);
      if (isNew && code === undefined) this.reports.push(report);
      if (this.acknowledges) acknowledgements.set(`${id} ${epoch}`, await this.#acknowledge(id, epoch));
    }
    return { acknowledgements: [...acknowledgements.values()], rejected };
  }

  #acknowledge(id: string, epoch: string): Promise<Envelope> {
    const seqs = new Set(
      this.reports.filter(report => report.id === id && report.epoch === epoch).map(({ seq }) => seq),
    );
    let seq = 0;
    while (seqs.has(seq + 1)) seq += 1;
    return sealAcknowledgement(
      { format: 'sitecast-acknowledgement-1', id, epoch, seq, at: new Date().toISOString() },
      this.rolloutsSigner,
    );
  }
}

function refusalOf(envelopes: unknown, statusOf: (report: Report) => number | undefined): number | undefined {
  const statuses = (Array.isArray(envelopes) ? envelopes : []).map(one => statusOf(readReport(one).document));
  return statuses.find(status => status !== undefined);
}

async function readAll(request: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

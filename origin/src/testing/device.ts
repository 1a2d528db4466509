import { createHash, randomBytes } from 'node:crypto';
import {
  type Acknowledgement,
  type Assignment,
  type Enrolment,
  openAcknowledgement,
  openAssignment,
  parseJoinToken,
  type Report,
  sealEnrolment,
  sealReport,
} from '@sitecast/shared/fleet';
import { signRequest } from '@sitecast/shared/http-signature';
import { type Envelope, Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import type { RoleSigners } from '@sitecast/shared/trust';
import type { Ask } from './operator.ts';

/** The fields of a report that a test chooses. Chain and id are the device's. */
export type Said = Partial<Omit<Report, 'format' | 'id' | 'epoch' | 'seq' | 'previous'>>;

/** An answer with its JSON. */
export interface Answer {
  status: number;
  headers: Headers;
  body: Record<string, unknown>;
}

/** A device or gateway with keys in memory that speaks the site API, for tests. */
export class TestMember {
  readonly identity: Identity;
  readonly kind: 'device' | 'gateway';
  readonly #ask: Ask;
  readonly #now: () => number;
  epoch = randomBytes(8).toString('hex');
  seq = 0;
  #previous: string | null = null;

  constructor(
    ask: Ask,
    now: () => number,
    kind: 'device' | 'gateway' = 'device',
    identity = new Identity(KeyPair.generate()),
  ) {
    this.#ask = ask;
    this.#now = now;
    this.kind = kind;
    this.identity = identity;
  }

  get id(): string {
    return this.identity.id;
  }

  /** Another machine with this member's key and chain, as they are now. */
  clone(): TestMember {
    return this.at(this.#ask);
  }

  /** The same member, connected to another origin. */
  at(ask: Ask): TestMember {
    const copy = new TestMember(ask, this.#now, this.kind, this.identity);
    copy.epoch = this.epoch;
    copy.seq = this.seq;
    copy.#previous = this.#previous;
    return copy;
  }

  /** Loses its data, except for its key. */
  beginChain(): void {
    this.epoch = randomBytes(8).toString('hex');
    this.seq = 0;
    this.#previous = null;
  }

  async post(path: string, value: unknown, by: TestMember = this): Promise<Answer> {
    return await by.postBytes(path, Buffer.from(JSON.stringify(value)));
  }

  async postBytes(path: string, body: Buffer, headers: Record<string, string> = {}): Promise<Answer> {
    const request = { method: 'POST', url: `http://origin${path}`, body };
    const signed = await signRequest(request, this.identity, this.#now());
    return await this.send(path, body, { ...signed, ...headers });
  }

  async send(path: string, body: Buffer, headers: Record<string, string>): Promise<Answer> {
    const response = await this.#ask(path, {
      method: 'POST',
      body: new Uint8Array(body),
      headers: { 'content-type': 'application/json', ...headers },
    });
    return await answerOf(response);
  }

  async get(path: string): Promise<Answer> {
    return await answerOf(await this.#ask(path));
  }

  async sealEnrolment(token?: string, said: Partial<Enrolment> = {}): Promise<Envelope> {
    const pair = token === undefined ? undefined : parseJoinToken(token).pair;
    const enrolment: Enrolment = {
      format: 'sitecast-enrolment-1',
      id: this.id,
      nonce: randomBytes(16).toString('hex'),
      kind: this.kind,
      ...(this.kind === 'device' && { product: 'camera', hardware: 'rpi4' }),
      ...(pair && { token: pair.keyId }),
      ...said,
    };
    return await sealEnrolment(enrolment, this.identity, pair);
  }

  /** @param by the gateway that sends the enrolment */
  async enrol(token?: string, said: Partial<Enrolment> = {}, by: TestMember = this): Promise<Answer> {
    return await this.post('/site/v1/enrolments', { envelope: await this.sealEnrolment(token, said) }, by);
  }

  /** The next report of its chain. */
  async next(said: Said = {}, seal = sealReport): Promise<Envelope> {
    this.seq += 1;
    const report: Report = {
      format: 'sitecast-report-1',
      id: this.id,
      epoch: this.epoch,
      seq: this.seq,
      previous: this.#previous,
      at: new Date(this.#now()).toISOString(),
      timestampVersion: 1,
      state: 'idle',
      ...said,
    };
    const envelope = await seal(report, this.identity);
    this.#previous = createHash('sha256').update(Buffer.from(envelope.payload, 'base64')).digest('hex');
    return envelope;
  }

  async sendReports(envelopes: readonly unknown[], by: TestMember = this): Promise<Answer> {
    return await this.post('/site/v1/reports', { reports: envelopes }, by);
  }

  /** Sends a report to the origin. */
  async report(said: Said = {}): Promise<Answer> {
    return await this.sendReports([await this.next(said)]);
  }
}

async function answerOf(response: Response): Promise<Answer> {
  const body: unknown = await response.json();
  if (typeof body !== 'object' || body === null) throw new Error('not an object');
  return { status: response.status, headers: response.headers, body: { ...body } };
}

/** The assignment in an answer, with its signature checked. */
export function assignmentIn({ body }: Answer, signers: RoleSigners): Assignment {
  return openAssignment(body.assignment, signers);
}

/** The acknowledgements in an answer, with their signatures checked. */
export function acknowledgementsIn({ body }: Answer, signers: RoleSigners): Acknowledgement[] {
  if (!Array.isArray(body.acknowledgements)) throw new Error(JSON.stringify(body));
  return body.acknowledgements.map(envelope => openAcknowledgement(envelope, signers));
}

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { TestMember } from '@sitecast/origin/testing';
import { parseJoinToken, type Report } from '@sitecast/shared/fleet';
import { ORIGIN_RECEIVER, signRequest } from '@sitecast/shared/http-signature';
import { KeyPair } from '@sitecast/shared/signing';
import { type Envelope, type EnvelopeSigner, Identity, sealEnvelope } from '@sitecast/shared/identity';

const CONNECTIONS = 32;
/** The most reports in one request, as a busy gateway sends them. */
const REPORTS_A_REQUEST = 200;

interface Prepared {
  sender: TestMember;
  path: string;
  body: Buffer;
}

/** A fleet that signs and sends like devices and gateways, but stores only keys and chains. */
export class FleetLoad {
  readonly devices: TestMember[] = [];
  readonly #gateways: TestMember[] = [];
  readonly #origin: string;
  readonly #connections = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });

  constructor(origin: string, gateways: number, devices: number) {
    this.#origin = origin;
    this.#gateways = Array.from({ length: gateways }, () => member('gateway'));
    for (let count = 0; count < devices; count += 1) this.devices.push(member('device'));
  }

  close(): void {
    this.#connections.destroy();
  }

  /** Enrols gateways, one per site, each with its share of the devices. */
  async enrol(gatewayToken: string, deviceToken: string): Promise<Prepared[]> {
    for (const [at, gateway] of this.#gateways.entries()) {
      const envelope = await gateway.sealEnrolment(gatewayToken, { site: `site-${at}` });
      await this.send([prepared(gateway, '/site/v1/enrolments', { envelope })]);
    }
    const requests: Prepared[] = [];
    const { pair } = parseJoinToken(deviceToken);
    for (const [at, device] of this.devices.entries()) {
      const envelope = await sealDevice(device, pair);
      requests.push(prepared(this.#gatewayOf(at), '/site/v1/enrolments', { envelope }));
    }
    return requests;
  }

  /**
   * One more report of each of `count` devices, in requests of their gateways.
   * @param first number of the first device; after the last device come the first ones again
   */
  async reports(first: number, count: number, said: Partial<Report>): Promise<Prepared[]> {
    const waiting = new Map<TestMember, object[]>();
    const requests: Prepared[] = [];
    const flush = (gateway: TestMember, reports: object[]): void => {
      if (reports.length > 0) requests.push(prepared(gateway, '/site/v1/reports', { reports }));
      waiting.delete(gateway);
    };
    for (let at = first; at < first + count; at += 1) {
      const number = at % this.devices.length;
      const device = this.devices[number];
      if (!device) continue;
      const gateway = this.#gatewayOf(number);
      const reports = waiting.get(gateway) ?? [];
      waiting.set(gateway, reports);
      reports.push(await device.next(said));
      if (reports.length === REPORTS_A_REQUEST) flush(gateway, reports);
    }
    for (const [gateway, reports] of waiting) flush(gateway, reports);
    return requests;
  }

  /** Sends all of them, a few at a time. @throws unless each is accepted whole */
  async send(requests: readonly Prepared[]): Promise<void> {
    const byGateway = new Map<TestMember, Prepared[]>();
    for (const next of requests) {
      const queue = byGateway.get(next.sender) ?? [];
      byGateway.set(next.sender, queue);
      queue.push(next);
    }
    await Promise.all([...byGateway.values()].map(queue => this.#sendInOrder(queue)));
  }

  /** The same for requests that don't depend on each other. */
  async sendInAnyOrder(requests: readonly Prepared[]): Promise<void> {
    const queues = Array.from({ length: CONNECTIONS }, (_, from) =>
      requests.filter((_request, at) => at % CONNECTIONS === from),
    );
    await Promise.all(queues.map(queue => this.#sendInOrder(queue)));
  }

  async #sendInOrder(queue: readonly Prepared[]): Promise<void> {
    for (const { sender, path, body } of queue) await this.#sendOne(sender, path, body);
  }

  async #sendOne(sender: TestMember, path: string, body: Buffer): Promise<void> {
    const url = this.#origin + path;
    const signed = await signRequest(
      { method: 'POST', url, body, receiver: ORIGIN_RECEIVER },
      sender.identity,
      Date.now(),
    );
    const headers = { 'content-type': 'application/json', 'content-length': body.length, ...signed };
    const sending = request(url, { method: 'POST', headers, agent: this.#connections });
    sending.end(body);
    const [response] = await once(sending, 'response');
    const parts: Buffer[] = [];
    for await (const part of response) parts.push(part);
    const text = Buffer.concat(parts).toString();
    const isWhole = response.statusCode === 200 && !text.includes('"rejected":[{');
    if (!isWhole) throw new Error(`${path}: ${response.statusCode} ${text.slice(-500)}`);
  }

  #gatewayOf(device: number): TestMember {
    const gateway = this.#gateways[device % this.#gateways.length];
    if (!gateway) throw new RangeError('no gateway');
    return gateway;
  }
}

function sealDevice({ identity }: TestMember, token: EnvelopeSigner): Promise<Envelope> {
  const enrolment = {
    format: 'sitecast-enrolment-1',
    id: identity.id,
    nonce: randomBytes(16).toString('hex'),
    kind: 'device',
    product: 'camera',
    hardware: 'rpi4',
    token: token.keyId,
  };
  const own = { keyId: identity.id, sign: (bytes: Uint8Array) => identity.sign(bytes) };
  return sealEnvelope('enrolment', enrolment, [own, token]);
}

function member(kind: 'device' | 'gateway'): TestMember {
  const identity = new Identity(KeyPair.generate());
  const made = new TestMember(() => new Response(), Date.now, kind, identity);
  made.epoch = randomBytes(8).toString('hex');
  return made;
}

function prepared(sender: TestMember, path: string, value: object): Prepared {
  return { sender, path, body: Buffer.from(JSON.stringify(value)) };
}

// For tests only: gateways, origins and devices in temporary directories, closed when a test ends.
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Report, sealEnrolment, sealReport } from '@sitecast/shared/fleet';
import { signRequest } from '@sitecast/shared/http-signature';
import { type Envelope, Identity } from '@sitecast/shared/identity';
import { Keyspace, type KeyValueStore, openLevelStore } from '@sitecast/shared/key-value';
import { KeyPair } from '@sitecast/shared/signing';
import { until as untilSo } from '@sitecast/shared/testing';
import { type RunningGateway, startGateway } from '../main.ts';
import type { GatewaySettings } from '../settings.ts';
import { FakeOrigin, type PublishedImage } from '@sitecast/shared/testing/origin';

const directories: string[] = [];

export async function temporaryDirectory(parent = tmpdir()): Promise<string> {
  const directory = await mkdtemp(join(parent, 'sitecast-gateway-'));
  directories.push(directory);
  return directory;
}

/** To be called in an `afterAll`. */
export async function removeTemporaryDirectories(): Promise<void> {
  for (const directory of directories.splice(0)) await rm(directory, { recursive: true, force: true });
}

/** Where memory can serve as a disk: hundreds of syncs would be what takes the time. */
const MEMORY_DISK = '/dev/shm';

/** A database of its own, as rooms see it. */
export interface TestDatabase {
  records: (room: string) => KeyValueStore;
  close(): Promise<void>;
}

export async function openTestDatabase(): Promise<TestDatabase> {
  const path = join(await temporaryDirectory(existsSync(MEMORY_DISK) ? MEMORY_DISK : tmpdir()), 'state');
  const owner = { name: 'gateway', dataDirectory: path, cure: '' };
  const store = await openLevelStore({ path, witnessPath: `${path}.witness`, owner });
  return { records: room => new Keyspace(store, `${room}!`), close: () => store.close() };
}

/** Settings of a gateway that follows an origin; it trusts the first root, or, with a token, what that says. */
export async function settingsFor(
  origin: FakeOrigin,
  more: Partial<GatewaySettings> = {},
): Promise<GatewaySettings> {
  const data = more.data ?? (await temporaryDirectory());
  const root = join(await temporaryDirectory(), 'root.json');
  await writeFile(root, origin.repository.rootBytes);
  return {
    origin: origin.url,
    data,
    listen: { host: '127.0.0.1', port: 0 },
    ...(more.token === undefined ? { root } : {}),
    site: 'north',
    cacheBytes: 2 ** 30,
    memoryBytes: 2 ** 24,
    reserve: 0,
    poll: 300,
    logLevel: 'silent',
    ...more,
  };
}

/** Tries until it's true. */
export function until(isSo: () => boolean | Promise<boolean>, what = 'the condition'): Promise<void> {
  return untilSo(what, isSo);
}

/** A log that keeps what was said. */
export function memoryLog() {
  const lines: { level: string; fields: object; message: string }[] = [];
  const at = (level: string) => (fields: object, message: string) => {
    lines.push({ level, fields, message });
  };
  return { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

/** A device with an identity of its own, which speaks to a gateway. */
export class TestDevice {
  readonly identity = new Identity(KeyPair.generate());
  readonly epoch = randomBytes(8).toString('hex');
  #seq = 0;

  get id(): string {
    return this.identity.id;
  }

  /** The next report of its chain. */
  async report(more: Partial<Report> = {}, seal = sealReport): Promise<Envelope> {
    this.#seq += 1;
    const report: Report = {
      format: 'sitecast-report-1',
      id: this.id,
      epoch: this.epoch,
      seq: this.#seq,
      previous: this.#seq === 1 ? null : 'a'.repeat(64),
      at: new Date().toISOString(),
      timestampVersion: 1,
      state: 'idle',
      ...more,
    };
    return seal(report, this.identity);
  }

  enrolment(more: object = {}): Promise<Envelope> {
    return sealEnrolment(
      {
        format: 'sitecast-enrolment-1',
        id: this.id,
        nonce: randomBytes(16).toString('hex'),
        kind: 'device',
        product: 'camera',
        hardware: 'rpi4',
        ...more,
      },
      this.identity,
      undefined,
    );
  }

  /** A signed POST. */
  async post(url: string, json: unknown, nowMs = Date.now()): Promise<{ status: number; json: Answer }> {
    return this.postBytes(url, Buffer.from(JSON.stringify(json)), nowMs);
  }

  /** A signed POST of anything. */
  async postBytes(
    url: string,
    body: Buffer<ArrayBuffer>,
    nowMs = Date.now(),
  ): Promise<{ status: number; json: Answer }> {
    const headers = await signRequest({ method: 'POST', url, body }, this.identity, nowMs);
    const response = await fetch(url, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', ...headers },
    });
    return { status: response.status, json: await readJson(response) };
  }
}

type Answer = Record<string, unknown>;

export async function readJson(response: Response): Promise<Answer> {
  const text = await response.text();
  return text === '' ? {} : JSON.parse(text);
}

/** What a test has started; `closeAll` belongs into an `afterEach`. */
export class GatewayHarness {
  readonly #open: { close(): Promise<void> }[] = [];

  async closeAll(): Promise<void> {
    for (const one of this.#open.splice(0).reverse()) await one.close();
  }

  async origin(): Promise<FakeOrigin> {
    const origin = await FakeOrigin.start();
    this.#open.push(origin);
    return origin;
  }

  /** An origin that has published and rolled out release 1 of `camera`. */
  async originWith(image: Buffer): Promise<PublishedImage & { origin: FakeOrigin }> {
    const origin = await this.origin();
    const published = await origin.publishRelease('camera', 1, image);
    await origin.startRollout('camera', 1);
    return { ...published, origin };
  }

  /** The same, whose changes no gateway hears of by waiting. */
  async silentOrigin(image: Buffer): Promise<FakeOrigin> {
    const { origin } = await this.originWith(image);
    // As the real one does: only so can be told whether metadata that came along is the right one.
    origin.repository.listsHashes = true;
    await origin.repository.publishAll();
    origin.misbehave = (_path, { headers }) =>
      headers.prefer === undefined ? undefined : response => response.writeHead(304).end();
    return origin;
  }

  /** Starts a gateway and waits until it serves a complete set. */
  async gateway(
    origin: FakeOrigin,
    more: Partial<GatewaySettings> = {},
    {
      isReadyFirst = true,
      now = Date.now,
      patience = 1,
    }: { isReadyFirst?: boolean; now?: () => number; patience?: number } = {},
  ): Promise<TestGateway> {
    const settings = await settingsFor(origin, more);
    const log = memoryLog();
    const running = await startGateway(settings, { log, now, patience });
    const gateway = new TestGateway(running, settings, log);
    this.#open.push(gateway);
    if (isReadyFirst) await until(() => gateway.isReady(), 'a complete set');
    return gateway;
  }
}

export class TestGateway {
  readonly url: string;
  readonly id: string;
  readonly settings: GatewaySettings;
  readonly log: ReturnType<typeof memoryLog>;
  readonly #running: RunningGateway;
  #isClosed = false;

  constructor(running: RunningGateway, settings: GatewaySettings, log: ReturnType<typeof memoryLog>) {
    this.#running = running;
    this.url = running.url;
    this.id = running.id;
    this.settings = settings;
    this.log = log;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#running.close();
  }

  untilEnrolled(): Promise<void> {
    return until(async () => (await this.metric('sitecast_enrolled')) === 1, 'the gateway to be enrolled');
  }

  async isReady(): Promise<boolean> {
    return (await fetch(`${this.url}/readyz`)).status === 200;
  }

  async get(
    path: string,
    headers: Record<string, string> = {},
  ): Promise<{ status: number; headers: Headers; body: Buffer }> {
    const response = await fetch(`${this.url}/${path}`, { headers });
    return {
      status: response.status,
      headers: response.headers,
      body: Buffer.from(await response.arrayBuffer()),
    };
  }

  /** A value of /metrics; 0 if it isn't there. */
  async metric(line: string): Promise<number> {
    const { body } = await this.get('metrics');
    const found = body
      .toString()
      .split('\n')
      .find(text => text.startsWith(`${line} `));
    return Number(found?.slice(line.length + 1) ?? 0);
  }
}

// For tests only: gateways and devices in temporary directories.
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Report, sealEnrolment, sealReport } from '@sitecast/shared/fleet';
import { signRequest } from '@sitecast/shared/http-signature';
import { type Envelope, Identity } from '@sitecast/shared/identity';
import { openLevelStore } from '@sitecast/shared/key-value';
import { KeyPair } from '@sitecast/shared/signing';
import { until as untilSo } from '@sitecast/shared/testing';
import type { GatewaySettings } from '../settings.ts';
import { type Records, recordsOf } from '../storage/records.ts';
import type { FakeOrigin } from './fake-origin.ts';

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
  records: (room: string) => Records;
  close(): Promise<void>;
}

export async function openTestDatabase(): Promise<TestDatabase> {
  const path = join(await temporaryDirectory(existsSync(MEMORY_DISK) ? MEMORY_DISK : tmpdir()), 'state');
  const owner = { name: 'gateway', dataDirectory: path, cure: '' };
  const store = await openLevelStore({ path, witnessPath: `${path}.witness`, owner });
  return { records: room => recordsOf(store, room), close: () => store.close() };
}

/** Settings of a gateway that follows an origin; it trusts the first root, or, with a token, what that says. */
export async function settingsFor(
  origin: FakeOrigin,
  more: Partial<GatewaySettings> = {},
): Promise<GatewaySettings> {
  const data = more.data ?? (await temporaryDirectory());
  const root = join(await temporaryDirectory(), 'root.json');
  await writeFile(root, origin.firstRoot);
  return {
    origin: origin.url,
    data,
    listen: { host: '127.0.0.1', port: 0 },
    ...(more.token === undefined ? { root } : {}),
    site: 'lisbon',
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
        hardware: 'board',
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

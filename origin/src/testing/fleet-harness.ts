import { existsSync, mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { delegatedSigners, type RoleSigners } from '@sitecast/shared/trust';
import type { TableStore } from '../adapters/embedded/tables.ts';
import { TestMember } from './device.ts';
import { imageOf, type TestImage, type TestOperator } from './operator.ts';
import { openTestOrigin, type TestOrigin, type TestOriginOptions } from './origin.ts';
import { MemoryTables } from './memory-tables.ts';
import { initialisedOrigin, randomChunks, type TestClock } from './setup.ts';

/** A file system in memory, where there is one: thousands of fsyncs would take most of the time. */
const MEMORY_DISK = '/dev/shm';

type Disks = (
  path: string,
) => Pick<
  TestOriginOptions,
  'openData' | 'audit' | 'events' | 'after' | 'leadership' | 'deltaMaker' | 'makesDeltas' | 'room'
>;

/** An origin that has published camera 1.0.0, with helpers for tests of its fleet. */
export class FleetHarness {
  origin: TestOrigin;
  readonly operator: TestOperator;
  readonly clock: TestClock;
  readonly image: TestImage;
  readonly path: string;
  readonly store: TableStore;
  readonly #disks: Disks;
  readonly #remove: () => Promise<void>;

  private constructor(
    opened: Pick<FleetHarness, 'origin' | 'operator' | 'clock' | 'image' | 'path' | 'store'>,
    disks: Disks,
    remove: () => Promise<void>,
  ) {
    this.origin = opened.origin;
    this.operator = opened.operator;
    this.clock = opened.clock;
    this.image = opened.image;
    this.path = opened.path;
    this.store = opened.store;
    this.#disks = disks;
    this.#remove = remove;
  }

  static async open(disks: Disks, store: TableStore = new MemoryTables()): Promise<FleetHarness> {
    const path = mkdtempSync(join(existsSync(MEMORY_DISK) ? MEMORY_DISK : tmpdir(), 'sitecast-fleet-'));
    const remove = () => rm(path, { recursive: true, force: true });
    const origin = await initialisedOrigin({ ...disks(path), store });
    const image = imageOf(...randomChunks(2));
    const answer = await origin.operator.publish('camera', image);
    if (answer.httpStatus !== 200) throw new Error(JSON.stringify(answer));
    return new FleetHarness({ ...origin, origin, image, path, store }, disks, remove);
  }

  async close(): Promise<void> {
    await this.origin.close();
    await this.#remove();
  }

  /** A new process on the same data. The operator's token stays valid. */
  async restart(): Promise<void> {
    await this.origin.close();
    this.origin = await openTestOrigin({ ...this.#disks(this.path), store: this.store, now: this.clock.now });
  }

  get signers(): RoleSigners {
    const targets = this.origin.repository.committed?.targets.signed;
    const found = targets && delegatedSigners(targets.delegations, 'rollouts');
    if (!found) throw new Error('no rollouts role');
    return found;
  }

  readonly ask = (path: string, init?: RequestInit) => this.origin.app.request(path, init);

  member(kind: 'device' | 'gateway' = 'device'): TestMember {
    return new TestMember(this.ask, this.clock.now, kind);
  }

  async call(method: string, path: string, value?: unknown): Promise<Record<string, unknown>> {
    const headers = {
      authorization: `Bearer ${this.origin.adminToken}`,
      ...(value !== undefined && { 'content-type': 'application/json' }),
    };
    const body = value === undefined ? {} : { body: JSON.stringify(value) };
    const response = await this.ask(path, { method, headers, ...body });
    const text = await response.text();
    const answer: unknown = text === '' ? {} : JSON.parse(text);
    if (typeof answer !== 'object' || answer === null) throw new Error(text);
    return { ...answer, httpStatus: response.status };
  }

  async joinToken(wanted: Record<string, unknown> = {}): Promise<string> {
    const made = await this.call('POST', '/api/v1/join-tokens', {
      kind: 'device',
      origin: 'https://origin.example',
      expiresAt: new Date(this.clock.nowMs + 3_600_000).toISOString(),
      ...wanted,
    });
    if (typeof made.token !== 'string') throw new Error(JSON.stringify(made));
    return made.token;
  }

  /** An enrolled gateway. */
  async gateway(site = 'north'): Promise<TestMember> {
    const gateway = this.member('gateway');
    const answer = await gateway.enrol(await this.joinToken({ kind: 'gateway' }), { site });
    if (answer.status !== 200) throw new Error(JSON.stringify(answer));
    return gateway;
  }

  async device(site = 'north'): Promise<TestMember> {
    const device = this.member();
    const answer = await device.enrol(await this.joinToken({ site }));
    if (answer.status !== 200) throw new Error(JSON.stringify(answer));
    return device;
  }

  startRollout(wanted: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    return this.call('POST', '/api/v1/rollouts', {
      product: 'camera',
      counter: 1,
      allAtOnce: true,
      ...wanted,
    });
  }

  /** Publishes the next release of camera. */
  async publishNext(): Promise<void> {
    const answer = await this.operator.publish('camera', this.image);
    if (answer.httpStatus !== 200) throw new Error(JSON.stringify(answer));
  }
}

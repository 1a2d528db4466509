import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LevelStore, openLevelStore } from '@sitecast/shared/key-value';
import { replaceLog } from '@sitecast/shared/key-value/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { openTestOrigin, type TestOrigin } from '../testing/origin.ts';
import type { TestMember } from '../testing/device.ts';
import type { TableStore, Range, Table, Write } from '../adapters/embedded/tables.ts';
import { Tables } from '../adapters/embedded/tables.ts';

/** A store on LevelDB whose disk is full for one of the next commits. */
class FillingStore implements TableStore {
  readonly #tables: Tables;
  readonly #path: string;
  #left = Number.POSITIVE_INFINITY;

  constructor(store: LevelStore, path: string) {
    this.#tables = new Tables(store);
    this.#path = path;
  }

  /** @param at number of the commit that fails, from 1 */
  failAt(at: number): void {
    this.#left = at;
  }

  get hasFailed(): boolean {
    return this.#left <= 0;
  }

  async commit(writes: readonly Write[]): Promise<void> {
    this.#left -= 1;
    if (this.#left === 0) replaceLog(this.#path, '/dev/full');
    await this.#tables.commit(writes);
  }

  get(table: Table, key: string): Promise<unknown> {
    return this.#tables.get(table, key);
  }

  entries(table: Table, range?: Range): AsyncIterable<[string, unknown]> {
    return this.#tables.entries(table, range);
  }
}

let directory: string;
let level: LevelStore;
let store: FillingStore;
let harness: FleetHarness;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'sitecast-failed-writes-'));
  const path = join(directory, 'state');
  const owner = { name: 'origin', dataDirectory: directory, cure: '' };
  level = await openLevelStore({ path, witnessPath: `${path}.witness`, owner });
  store = new FillingStore(level, path);
  harness = await FleetHarness.open(at => testDisk(at), store);
});
afterEach(async () => {
  store.failAt(Number.POSITIVE_INFINITY);
  await harness.close();
  await level.close();
  rmSync(directory, { recursive: true });
});

/** The state in memory that must also be on the disk. */
async function memoryOf(origin: TestOrigin): Promise<Record<string, unknown>> {
  const { fleet, tokens, audit, rollouts, cohortStore } = origin;
  const { registry } = fleet;
  const members = [...registry.members()].sort((one, other) => one.id.localeCompare(other.id));
  return {
    members,
    statuses: members.map(({ id }) => registry.status(id)),
    joinTokens: fleet.joinTokens.list(),
    tokens: tokens.list(),
    audited: audit.head,
    rollouts: rollouts.list(),
    figures: await Promise.all(rollouts.list().map(({ rollout }) => cohortStore.stats(rollout.id))),
    pages: await Promise.all(
      rollouts
        .list()
        .map(record => cohortStore.statusPage(record, { limit: 100, nowMs: harness.clock.nowMs }, fleet)),
    ),
    outcomes: await Promise.all(
      rollouts.list().flatMap(({ rollout }) => members.map(({ id }) => fleet.store.outcome(rollout.id, id))),
    ),
  };
}

/** The state that a process would have in memory if it started now. */
async function memoryOfNext(): Promise<Record<string, unknown>> {
  const next = await openTestOrigin({
    ...testDisk(harness.path),
    store,
    now: harness.clock.now,
  });
  // The new process has its own first token in addition.
  const memory = await memoryOf(next);
  await next.close();
  return memory;
}

type Act = (at: number) => Promise<{ status: number } | Record<string, unknown>>;

/** Fails each of an operation's commits in turn, and checks that memory and disk agree afterwards. */
async function expectAgreement(act: Act): Promise<number> {
  for (let at = 1; ; at += 1) {
    store.failAt(at);
    await act(at);
    const hasFailed = store.hasFailed;
    store.failAt(Number.POSITIVE_INFINITY);
    if (!hasFailed) return at - 1;
    // The minute's timer does the same.
    await harness.origin.rollouts.reconcile();
    const memory = await memoryOf(harness.origin);
    const { tokens, audited: _audited, ...rest } = await memoryOfNext();
    const { tokens: known, audited: _head, ...own } = memory;
    expect(rest).toEqual(own);
    expect(tokens).toEqual(expect.arrayContaining(Object(known)));
  }
}

it('memory agrees with the disk after each failed write of enrolling and reporting', async () => {
  const device = await harness.device();
  const { id } = await harness.startRollout();
  const rollout = { id: String(id), attempt: 1 };
  const token = await harness.joinToken({ site: 'north', uses: 9 });
  expect(await expectAgreement(() => harness.member().enrol(token))).toBe(1);
  const reason = { code: 'healthFailed', message: '' };
  const reports = [
    await device.next({ state: 'downloading', rollout }),
    await device.next({ state: 'failed', rollout, reason }),
  ];
  expect(await expectAgreement(() => device.sendReports(reports))).toBeGreaterThanOrEqual(1);
  expect(await device.report()).toMatchObject({ status: 200 });
});

it('memory agrees with the disk after each failed write of operators’ actions', async () => {
  const devices: TestMember[] = [];
  for (let count = 0; count < 6; count += 1) devices.push(await harness.device());
  const path = (at: number, rest = '') => `/api/v1/devices/${devices[at]?.id}${rest}`;
  const waiting = Array.from({ length: 4 }, () => harness.member());
  for (const member of waiting) await member.enrol();
  const acts: Act[] = [
    at => harness.call('POST', '/api/v1/tokens', { name: `token ${at}`, role: 'viewer' }),
    async () => {
      const { id } = await harness.call('POST', '/api/v1/tokens', { name: 'ci', role: 'viewer' });
      return await harness.call('DELETE', `/api/v1/tokens/${String(id)}`);
    },
    async () => {
      await harness.joinToken().catch(() => undefined);
      const [first] = harness.origin.fleet.joinTokens.list();
      return await harness.call('DELETE', `/api/v1/join-tokens/${first?.id}`);
    },
    at => harness.call('POST', `/api/v1/devices/${waiting[at]?.id}/accept`, { site: 'south' }),
    at => harness.call('PATCH', path(at), { tags: { ring: 'early' } }),
    at => harness.call('POST', path(at, '/revoke')),
  ];
  for (const act of acts) expect(await expectAgreement(act)).toBeGreaterThanOrEqual(1);
});

it('memory agrees with the disk after each failed write of starting and stopping a rollout', async () => {
  for (let count = 0; count < 10; count += 1) await harness.device();
  const stages = [{ basisPoints: 1000 }, { basisPoints: 10_000 }];
  const started = await expectAgreement(() => harness.startRollout({ allAtOnce: false, stages }));
  expect(started).toBeGreaterThanOrEqual(2);
  const [record] = harness.origin.rollouts.list();
  const path = `/api/v1/rollouts/${record?.rollout.id}`;
  expect(
    await expectAgreement(() => harness.call('POST', `${path}/advance`, { target: 1 })),
  ).toBeGreaterThanOrEqual(2);
  expect(await expectAgreement(() => harness.call('POST', `${path}/abort`))).toBeGreaterThanOrEqual(2);
});

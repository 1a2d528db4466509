import { cpSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rankOf } from '@sitecast/shared/fleet';
import { POINT_STEP } from '@sitecast/shared/testing';
import { afterAll, afterEach, beforeEach, expect, it } from 'vitest';
import { Breaker, ProcessDied } from '../adapters/disk/testing/failing-disk.ts';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MemoryTables } from '../testing/memory-tables.ts';
import { openTestOrigin, type TestOrigin } from '../testing/origin.ts';
import type { TableStore, Range, Table, Write } from '../adapters/embedded/tables.ts';

const base = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const root = mkdtempSync(join(base, 'sitecast-fleet-crash-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A store that fails together with the disk: just before a commit, or just after it became durable. */
class DyingFleet implements TableStore {
  readonly #store: TableStore;
  readonly #breaker: Breaker;

  constructor(store: TableStore, breaker: Breaker) {
    this.#store = store;
    this.#breaker = breaker;
  }

  async commit(writes: readonly Write[]): Promise<void> {
    this.#breaker.step();
    await this.#store.commit(writes);
    this.#breaker.step();
  }

  async get(table: Table, key: string): Promise<unknown> {
    if (this.#breaker.hasDied) throw new ProcessDied();
    return await this.#store.get(table, key);
  }

  entries(table: Table, range?: Range): AsyncIterable<[string, unknown]> {
    if (this.#breaker.hasDied) throw new ProcessDied();
    return this.#store.entries(table, range);
  }
}

let harness: FleetHarness;
let before: MemoryTables;
beforeEach(async () => {
  before = new MemoryTables();
  harness = await FleetHarness.open(path => testDisk(path), before);
});
afterEach(() => harness.close());

/** The state so far, on a disk and in a store of its own. */
function copy(): { path: string; store: MemoryTables } {
  const path = mkdtempSync(join(root, 'run-'));
  cpSync(harness.path, path, { recursive: true });
  return { path, store: before.copy() };
}

type Act = (origin: TestOrigin, member: (original: TestMember) => TestMember) => Promise<unknown>;

/**
 * Lets an origin act and die at each of its operations in turn, starts the next one, and passes it to `examine`.
 * @returns how often it died
 */
async function dieEverywhere(
  act: Act,
  examine: (origin: TestOrigin, dieAt: number) => Promise<void>,
): Promise<number> {
  for (let dieAt = 1; ; dieAt += dieAt < 3 ? 1 : POINT_STEP) {
    const { path, store } = copy();
    const breaker = new Breaker(path);
    const origin = await openTestOrigin({
      ...testDisk(path, breaker),
      store: new DyingFleet(store, breaker),
      now: harness.clock.now,
    });
    breaker.arm(dieAt);
    await act(origin, member => member.at((at, init) => origin.app.request(at, init)));
    if (!breaker.hasDied) return dieAt - 1;
    breaker.lose(dieAt % 2 === 0 ? 'nothing' : 'everything');
    const next = await openTestOrigin({
      ...testDisk(path),
      store,
      now: harness.clock.now,
    });
    await examine(next, dieAt);
    await next.close();
    rmSync(path, { recursive: true });
  }
}

const onto = (origin: TestOrigin, member: TestMember) =>
  member.at((path, init) => origin.app.request(path, init));

it('counts a join token once and accepts its holder, wherever enrolment is cut off', async () => {
  const token = await harness.joinToken({ site: 'north' });
  const [device, other] = [harness.member(), harness.member()];
  const envelope = await device.sealEnrolment(token);
  const died = await dieEverywhere(
    (_origin, at) => at(device).post('/site/v1/enrolments', { envelope }),
    async origin => {
      const isIn = origin.fleet.registry.member(device.id) !== undefined;
      expect(origin.fleet.joinTokens.list()).toMatchObject([{ used: isIn ? 1 : 0 }]);
      const answer = await onto(origin, device).post('/site/v1/enrolments', { envelope });
      expect(answer.status).toBe(200);
      expect(origin.fleet.joinTokens.list()).toMatchObject([{ used: 1 }]);
      expect(await onto(origin, other).enrol(token)).toMatchObject({ status: 403 });
    },
  );
  // It dies before and after the commit of the audit entry, the member and the token's use.
  expect(died).toBe(2);
});

it('accepts reports exactly once and acknowledges none that it does not have, wherever it is cut off', async () => {
  const [gateway, device] = [await harness.gateway(), await harness.device()];
  const rollout = await harness.startRollout();
  const said = { rollout: { id: String(rollout.id), attempt: 1 }, state: 'downloading' as const };
  const reports = [await device.next(said), await device.next(said), await device.next(said)];
  let answered: number | undefined;
  const died = await dieEverywhere(
    async (_origin, at) => {
      const { status } = await at(device).sendReports(reports, at(gateway));
      answered = status;
    },
    async origin => {
      const held = origin.fleet.registry.status(device.id)?.chains.at(-1)?.seq ?? 0;
      expect(answered === 200 ? [3] : [0, 3]).toContain(held);
      const outcome = await origin.fleet.store.outcome(String(rollout.id), device.id);
      expect(outcome !== undefined).toBe(held > 0);
      const again = await onto(origin, device).sendReports(reports, onto(origin, gateway));
      expect(again).toMatchObject({ status: 200, body: { rejected: [] } });
      expect(origin.fleet.registry.status(device.id)).toMatchObject({ chains: [{ seq: 3 }], anomalies: [] });
    },
  );
  expect(died).toBe(2);
});

it('starts a rollout completely or not at all, wherever it is cut off', async () => {
  await harness.device();
  const ends = { begun: 0, not: 0 };
  const died = await dieEverywhere(
    origin => start(origin),
    async origin => {
      const { rollouts } = origin;
      const known = rollouts.list();
      const published = origin.repository.committed?.rollouts.signed.targets['rollouts/camera.json'];
      expect(known).toHaveLength(published ? 1 : 0);
      ends[published ? 'begun' : 'not'] += 1;
      const remembered = known.map(
        ({ rollout, startedBy }) => `${rollout.state} by ${startedBy.replace(/ \d+$/, '')}`,
      );
      expect(remembered).toEqual(published ? ['active by test'] : []);
      const again = await start(origin);
      expect(again.status).toBe(published ? 409 : 201);
      expect(rollouts.list()).toHaveLength(1);
    },
  );
  expect(died).toBeGreaterThan(15);
  expect(ends.begun).toBeGreaterThan(1 / POINT_STEP);
  expect(ends.not).toBeGreaterThan(10 / POINT_STEP);
});

it('aborts a rollout, and its record agrees with what is published, wherever it is cut off', async () => {
  const { id } = await harness.startRollout();
  await dieEverywhere(
    async origin => await post(origin, `/api/v1/rollouts/${String(id)}/abort`),
    async origin => {
      const target = origin.repository.committed?.rollouts.signed.version;
      const { state } = origin.rollouts.require(String(id)).rollout;
      expect(state).toBe(target === 2 ? 'active' : 'aborted');
      const again = await post(origin, `/api/v1/rollouts/${String(id)}/abort`);
      expect(again.status).toBe(200);
      expect(origin.rollouts.require(String(id)).rollout.state).toBe('aborted');
    },
  );
});

it('begins a stage with its whole cohort or not at all, wherever it is cut off', async () => {
  for (let count = 0; count < 10; count += 1) await harness.device();
  const stages = [{ basisPoints: 1000 }, { basisPoints: 5000 }, { basisPoints: 10_000 }];
  const { id } = await harness.startRollout({ allAtOnce: false, stages });
  const ends = new Set<number>();
  const died = await dieEverywhere(
    origin => post(origin, `/api/v1/rollouts/${String(id)}/advance`, { target: 1 }),
    async origin => {
      const published = origin.repository.committed?.rollouts.signed.version ?? 0;
      const { controller, rollout, next, changes } = origin.rollouts.require(String(id));
      expect(next).toBeUndefined();
      expect(controller.stage).toBe(published === 2 ? 0 : 1);
      expect(changes.map(({ stage }) => stage)).toEqual(published === 2 ? [undefined] : [undefined, 1]);
      const isIn = [...origin.fleet.registry.members()].filter(
        ({ id }) => rollout.cohort.below === null || rankOf(rollout.id, id) < rollout.cohort.below,
      );
      expect(isIn).toHaveLength(controller.stage === 0 ? 1 : 5);
      const { devices } = await pageOf(origin, String(id));
      expect(devices.map(({ id }) => id).sort()).toEqual(isIn.map(({ id }) => id).sort());
      expect(await origin.cohortStore.stats(String(id))).toMatchObject({ members: isIn.length });
      ends.add(controller.stage);
      expect((await post(origin, `/api/v1/rollouts/${String(id)}/advance`, { target: 1 })).status).toBe(200);
      expect(origin.rollouts.require(String(id)).controller.stage).toBe(1);
    },
  );
  expect(died).toBeGreaterThan(15);
  expect(ends).toEqual(new Set([0, 1]));
});

it('completes a rollout that makes way, or rolls back one that has ended, together with its order or not at all', async () => {
  const device = await harness.device();
  const { id } = await harness.startRollout({ soakMs: 3_600_000 });
  const release = { counter: 1, version: '1.0.0' };
  const rollout = { id: String(id), attempt: 1 };
  await device.report({ state: 'completed', release, booted: { slot: 'B', release }, rollout });
  await harness.origin.rollouts.checkCompletion();
  const died = await dieEverywhere(
    origin => start(origin),
    async origin => {
      const isStarted = origin.rollouts.list().length === 2;
      const before = origin.rollouts.require(String(id));
      expect(before.rollout.state).toBe(isStarted ? 'completed' : 'active');
      expect(before).not.toHaveProperty('next');
      expect(before.controller).toMatchObject({
        phase: before.rollout.state,
        settledAt: expect.any(String),
      });
    },
  );
  expect(died).toBeGreaterThan(15);

  await harness.call('POST', `/api/v1/rollouts/${String(id)}/complete`);
  await dieEverywhere(
    origin => post(origin, `/api/v1/rollouts/${String(id)}/rollback`),
    async origin => {
      const published = origin.repository.committed?.rollouts.signed.version;
      const { state } = origin.rollouts.require(String(id)).rollout;
      expect(state).toBe(published === 3 ? 'completed' : 'rollingBack');
      const stats = await origin.cohortStore.stats(String(id));
      expect(stats?.members).toBe(published === 3 ? undefined : 1);
    },
  );
});

it('stops a failed rollout before it dies, or at its next start', async () => {
  const [device] = [await harness.device(), await harness.device()];
  const rollout = await harness.startRollout();
  const reason = { code: 'healthFailed', message: '' };
  const failure = await device.next({
    rollout: { id: String(rollout.id), attempt: 1 },
    state: 'failed',
    reason,
  });
  let stoppedBefore = 0;
  const died = await dieEverywhere(
    async (origin, at) => {
      await at(device).sendReports([failure]);
      // The disk fails during this call. The checks below examine what was done by then.
      await origin.rollouts.checkCompletion().catch(() => undefined);
    },
    async origin => {
      const isKnown = (await origin.fleet.store.outcome(String(rollout.id), device.id)) !== undefined;
      const { state } = origin.rollouts.require(String(rollout.id)).rollout;
      expect(state).toBe(isKnown ? 'paused' : 'active');
      if (isKnown) stoppedBefore += 1;
    },
  );
  expect(died).toBeGreaterThan(15);
  expect(stoppedBefore).toBeGreaterThan(10 / POINT_STEP);
});

it('refuses members that it has reported as revoked, and publishes the revocation, wherever it is cut off', async () => {
  const device = await harness.device();
  let answered = 0;
  await dieEverywhere(
    async origin => {
      answered = (await post(origin, `/api/v1/devices/${device.id}/revoke`)).status;
    },
    async origin => {
      const isRevoked = origin.fleet.registry.activeMember(device.id) === undefined;
      expect(answered === 200 ? [true] : [true, false]).toContain(isRevoked);
      const report = await onto(origin, device).clone().report();
      expect(report.status).toBe(isRevoked ? 403 : 200);
      // A new start makes the published files agree.
      const published = origin.repository.committed?.rollouts.signed.targets['rollouts/camera.json'];
      expect(published !== undefined).toBe(isRevoked);
    },
  );
});

/** The first page of a rollout's status. */
const pageOf = (origin: TestOrigin, id: string) =>
  origin.cohortStore.statusPage(
    origin.rollouts.require(id),
    { limit: 100, nowMs: harness.clock.nowMs },
    origin.fleet,
  );

async function post(origin: TestOrigin, path: string, value?: unknown): Promise<Response> {
  return await origin.app.request(path, {
    method: 'POST',
    headers: { authorization: `Bearer ${origin.adminToken}`, 'content-type': 'application/json' },
    ...(value !== undefined && { body: JSON.stringify(value) }),
  });
}

const start = (origin: TestOrigin) =>
  post(origin, '/api/v1/rollouts', { product: 'camera', counter: 1, allAtOnce: true });

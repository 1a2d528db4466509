import { eligibilityOf, parseRollouts, type Rollout } from '@sitecast/shared/fleet';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { AuditEvent } from '../audit/audit.ts';
import type { FleetEvent } from '../events/events.ts';
import { assignmentOf } from '../fleet/member.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MemoryTables } from '../testing/memory-tables.ts';

const HOUR_MS = 3_600_000;

let harness: FleetHarness;
let timers: { atMs: number; act: () => void }[];
let audited: (AuditEvent & { rolloutsVersion: number })[];
let events: FleetEvent[];
let tags: number;
/** The action whose audit entry fails. */
let unrecordable: string | undefined;

beforeEach(async () => {
  timers = [];
  audited = [];
  events = [];
  tags = 0;
  unrecordable = undefined;
  const store = new MemoryTables();
  const disks = (path: string) => ({
    ...testDisk(path),
    after: (delayMs: number, act: () => void) => {
      const timer = { atMs: harness ? harness.clock.nowMs + delayMs : 0, act };
      timers.push(timer);
      return () => timers.splice(timers.indexOf(timer), 1);
    },
    audit: {
      record: async (event: AuditEvent) => {
        if (event.subject === unrecordable) throw new Error('disk full');
        if (!event.action.startsWith('rollout.')) return;
        audited.push({ ...event, rolloutsVersion: harness.origin.repository.versions()?.rollouts ?? 0 });
      },
    },
    events: { emit: (event: FleetEvent) => void (event.type.startsWith('rollout.') && events.push(event)) },
  });
  harness = await FleetHarness.open(disks, store);
});
afterEach(() => harness.close());

/** Lets time pass, and runs the timers that are due. */
async function pass(hours: number): Promise<void> {
  harness.clock.passHours(hours);
  await harness.origin.rollouts.reconcile();
}

const path = (id: unknown, rest = '') => `/api/v1/rollouts/${String(id)}${rest}`;
const status = (id: unknown) => harness.call('GET', path(id));
const act = (id: unknown, name: string, body?: unknown) => harness.call('POST', path(id, `/${name}`), body);
const devices = (count: number, site: string) =>
  Promise.all(Array.from({ length: count }, () => harness.device(site)));

async function signed(id: unknown): Promise<Rollout> {
  const target = harness.origin.repository.committed?.rollouts.signed.targets['rollouts/camera.json'];
  const response = await harness.ask(`/targets/rollouts/${String(target?.hashes.sha256)}.camera.json`);
  const found = parseRollouts(Buffer.from(await response.arrayBuffer())).rollouts.find(one => one.id === id);
  if (!found) throw new Error('not signed');
  return found;
}

/** The devices that the signed rollout includes, by the devices' own rule. */
async function letIn(id: unknown): Promise<string[]> {
  const rollout = await signed(id);
  return [...harness.origin.fleet.registry.members()]
    .filter(member => eligibilityOf(rollout, { assignment: assignmentOf(member), bootedCounter: 0 }) === 'in')
    .map(member => member.id)
    .sort();
}

function say(
  id: unknown,
  device: TestMember,
  state: 'downloading' | 'completed' | 'failed',
  { attempt = 1, code = 'healthFailed' }: { attempt?: number; code?: string } = {},
) {
  const release = { counter: 1, version: '1.0.0' };
  return device.report({
    state,
    release,
    ...(state === 'completed' && { booted: { slot: 'B', release } }),
    ...(state === 'failed' && { reason: { code, message: 'exit code 1' } }),
    rollout: { id: String(id), attempt },
  });
}

const inStages = (more: Record<string, unknown> = {}) =>
  harness.startRollout({
    allAtOnce: false,
    stages: [{ basisPoints: 1000 }, { basisPoints: 5000 }, { basisPoints: 10_000 }],
    ...more,
  });

async function fleetOf(north: number, south: number): Promise<Map<string, TestMember>> {
  const all = [...(await devices(north, 'north')), ...(await devices(south, 'south'))];
  return new Map(all.map(device => [device.id, device]));
}

const stopped = async (id: unknown, state: string): Promise<void> => {
  await expect.poll(async () => (await status(id)).state).toBe(state);
};

describe('a rollout in stages', () => {
  it('grows even if another one, which is judged before it, cannot be decided', async () => {
    const fleet = await fleetOf(6, 6);
    const { id } = await inStages({ match: { sites: ['north'] } });
    harness.clock.passHours(1);
    const { id: other } = await inStages({ match: { sites: ['south'] } });
    for (const rollout of [id, other])
      for (const member of await letIn(rollout)) {
        const device = fleet.get(member);
        if (device) await say(rollout, device, 'completed');
      }
    await harness.origin.rollouts.checkCompletion();
    unrecordable = `rollout:${String(other)}`;
    await expect(pass(5)).rejects.toThrow('disk full');
    const stages = async () => [(await status(id)).stage, (await status(other)).stage];
    expect(await stages()).toEqual([1, 0]);
    unrecordable = undefined;
    await harness.origin.rollouts.reconcile();
    expect(await stages()).toEqual([1, 1]);
  });

  it('reaches exactly its share, soaks, grows, and completes', async () => {
    const fleet = await fleetOf(6, 6);
    const { id } = await inStages();
    const first = await letIn(id);
    expect(first).toHaveLength(2);
    expect(await status(id)).toMatchObject({ total: 2, stage: 0, figures: { members: 2, pending: 2 } });
    for (const device of first) await say(id, fleet.get(device) ?? (await harness.device()), 'completed');
    await pass(0);
    expect(await status(id)).toMatchObject({ stage: 0, settledAt: expect.any(String) });
    await pass(4);
    const second = await letIn(id);
    expect(second).toHaveLength(6);
    expect(second).toEqual(expect.arrayContaining(first));
    for (const device of fleet.values()) await say(id, device, 'completed');
    await pass(0);
    await pass(4);
    // The last stage has just begun, and its devices have succeeded already.
    expect(await status(id)).toMatchObject({ state: 'active', stage: 2, settledAt: expect.any(String) });
    await pass(4);
    expect(await status(id)).toMatchObject({ state: 'completed' });
    expect(events.map(({ type }) => type)).toEqual([
      'rollout.started',
      'rollout.stage',
      'rollout.stage',
      'rollout.completed',
    ]);
    expect(harness.store && (await harness.store.entries('cohort')[Symbol.asyncIterator]().next()).done).toBe(
      true,
    );
  });

  it('keeps the frozen devices of a stage through a restart, whatever their assignments are since', async () => {
    await fleetOf(6, 6);
    const { id } = await inStages();
    const [first = ''] = await letIn(id);
    await harness.call('PATCH', `/api/v1/devices/${first}`, { tags: { moved: String((tags += 1)) } });
    harness.clock.passHours(1);
    const latecomer = await harness.device();
    await harness.restart();
    expect(await status(id)).toMatchObject({ state: 'active', figures: { members: 2, pending: 2 } });
    const { devices: shown } = await status(id);
    expect(shown).not.toContainEqual(expect.objectContaining({ id: latecomer.id }));
  });

  it('begins its next stage after the soak, by a timer that follows from the stored state', async () => {
    const fleet = await fleetOf(6, 6);
    const { id } = await inStages();
    for (const device of await letIn(id)) {
      const member = fleet.get(device);
      if (member) await say(id, member, 'completed');
    }
    await harness.origin.rollouts.checkCompletion();
    timers = [];
    await harness.restart();
    const soaked = harness.clock.nowMs + 4 * HOUR_MS;
    expect(timers.map(({ atMs }) => atMs)).toContain(soaked);
    harness.clock.passHours(4);
    for (const { atMs, act } of timers.splice(0)) if (atMs === soaked) act();
    await expect.poll(async () => (await status(id)).stage).toBe(1);
  });

  it('begins with chosen canaries or one device of each site', async () => {
    const fleet = await fleetOf(6, 6);
    const [chosen = ''] = fleet.keys();
    const { id } = await inStages({ canaries: { ids: [chosen] } });
    expect(await letIn(id)).toEqual([chosen]);
    await act(id, 'abort');
    const { id: other } = await inStages({ canaries: { perSite: true } });
    const sites = (await letIn(other)).map(device => harness.origin.fleet.registry.member(device)?.site);
    expect(new Set(sites)).toEqual(new Set(['north', 'south']));
    await act(other, 'advance', { target: 1 });
    expect(await letIn(other)).toHaveLength(2);
    await act(other, 'abort');
    expect(await inStages({ canaries: { ids: [harness.member().id] } })).toMatchObject({
      code: 'SITECAST_ROLLOUT_INVALID',
    });
  });

  it('does what its dry run announced; the dry run changes nothing', async () => {
    await fleetOf(6, 6);
    const versions = harness.origin.repository.versions();
    const dry = await inStages({ dryRun: true });
    expect(dry).toMatchObject({
      httpStatus: 200,
      total: 12,
      stages: [{ count: 2 }, { count: 4 }, { count: 6 }],
    });
    expect(harness.origin.repository.versions()).toEqual(versions);
    expect(harness.origin.rollouts.list()).toEqual([]);
    await inStages({ id: dry.id });
    const [stage]: { devices: string[] }[] = Array.isArray(dry.stages) ? dry.stages : [];
    expect(await letIn(dry.id)).toEqual([...(stage?.devices ?? [])].sort());
    await act(dry.id, 'abort');
    expect(await inStages({ id: dry.id })).toMatchObject({ code: 'SITECAST_ROLLOUT_EXISTS' });
  });

  it('reaches devices by the release that they come from', async () => {
    const [one, other] = [await harness.device(), await harness.device()];
    await one.report({ booted: { slot: 'A', release: { counter: 1, version: '1.0.0' } } });
    await harness.publishNext();
    const { id } = await harness.startRollout({
      counter: 2,
      match: { fromVersion: { min: '1.0.0', max: '1.0.0' } },
    });
    expect(await status(id)).toMatchObject({
      total: 1,
      devices: [{ id: one.id }],
      match: { fromCounter: { min: 1 } },
    });
    expect(other.id).not.toBe(one.id);
  });
});

describe('a bad release', () => {
  it('is rolled back by the report that crosses the threshold, and the decision is audited first', async () => {
    const fleet = await fleetOf(6, 6);
    const { id } = await harness.startRollout();
    const [one, other] = [...fleet.values()].filter((_device, at) => at === 0 || at === 11);
    if (!one || !other) throw new Error('no devices');
    const versionBefore = harness.origin.repository.versions()?.rollouts;
    await say(id, one, 'failed');
    await stopped(id, 'paused');
    expect((await signed(id)).state).toBe('paused');
    await say(id, other, 'failed');
    await stopped(id, 'rollingBack');
    expect((await signed(id)).state).toBe('rollingBack');
    expect(audited.map(({ action, by }) => `${action} by ${by}`)).toEqual([
      'rollout.start by test',
      'rollout.pause by origin',
      'rollout.rollback by origin',
    ]);
    expect(audited[1]).toMatchObject({
      rolloutsVersion: versionBefore,
      subject: `rollout:${String(id)}`,
      details: { figures: { failed: 1, members: 12 } },
    });
    expect(await status(id)).toMatchObject({
      failures: [{ code: 'healthFailed', hardware: 'rpi4', count: 2, sites: 2 }],
      stop: { why: 'failures', by: 'origin' },
    });
  });

  it('is shown with the decision that follows the last report, or as about to be decided', async () => {
    const [device] = (await fleetOf(1, 0)).values();
    if (!device) throw new Error('no device');
    const { id } = await harness.startRollout({ onFailure: 'pause', maxFailuresBasisPoints: 0 });
    expect(await status(id)).not.toHaveProperty('deciding');
    unrecordable = `rollout:${String(id)}`;
    await say(id, device, 'failed');
    expect(await status(id)).toMatchObject({ state: 'active', figures: { failed: 1 }, deciding: true });
    unrecordable = undefined;
    await harness.origin.rollouts.reconcile();
    const after = await status(id);
    expect(after).toMatchObject({ state: 'paused', figures: { failed: 1 } });
    expect(after).not.toHaveProperty('deciding');
  });

  it('that fails late, after success, is rolled back, too; power losses and ordered rollbacks are no failures', async () => {
    const fleet = [...(await fleetOf(2, 2)).values()];
    const { id } = await harness.startRollout();
    const [north, other, south] = fleet;
    if (!north || !other || !south) throw new Error('no devices');
    for (const device of [north, south]) await say(id, device, 'completed');
    await say(id, other, 'failed', { code: 'powerLoss' });
    await harness.origin.rollouts.checkCompletion();
    expect(await status(id)).toMatchObject({ state: 'active', figures: { failed: 0, well: 2 } });
    await say(id, north, 'failed');
    await say(id, south, 'failed');
    await stopped(id, 'rollingBack');
    await other.report({
      state: 'rolledBack',
      rollout: { id: String(id), attempt: 1 },
      reason: { code: 'ordered', message: '' },
    });
    await harness.origin.rollouts.checkCompletion();
    expect(await status(id)).toMatchObject({ figures: { failed: 2, returned: 1 } });
  });

  it('that was paused continues once its failures are acknowledged, and later ones count again', async () => {
    const fleet = [...(await fleetOf(3, 3)).values()];
    const { id } = await harness.startRollout({ onFailure: 'pause' });
    const [one, other] = fleet;
    if (!one || !other) throw new Error('no devices');
    await say(id, one, 'failed');
    await stopped(id, 'paused');
    expect(await act(id, 'resume')).toMatchObject({
      httpStatus: 409,
      code: 'SITECAST_ACKNOWLEDGE_NEEDED',
      data: { failed: 1 },
    });
    expect(await harness.call('GET', path(id, '/preview?act=resume'))).toMatchObject({
      touches: 5,
      failed: 1,
    });
    expect(await act(id, 'resume', { acknowledge: true })).toMatchObject({
      httpStatus: 200,
      state: 'active',
    });
    expect(await act(id, 'resume', { acknowledge: true })).toMatchObject({
      httpStatus: 200,
      state: 'active',
    });
    await harness.restart();
    expect(await status(id)).toMatchObject({ state: 'active' });
    await say(id, other, 'failed');
    await stopped(id, 'paused');
  });

  it('may be tried again under the next attempt number', async () => {
    const fleet = [...(await fleetOf(3, 3)).values()];
    const { id } = await harness.startRollout({ onFailure: 'pause' });
    const [one] = fleet;
    if (!one) throw new Error('no devices');
    await say(id, one, 'failed');
    await stopped(id, 'paused');
    expect(await harness.call('GET', path(id, '/preview?act=retry'))).toMatchObject({
      touches: 6,
      target: 2,
    });
    expect(await act(id, 'retry', { target: 2 })).toMatchObject({ state: 'active', attempt: 2 });
    expect(await act(id, 'retry', { target: 2 })).toMatchObject({ state: 'active', attempt: 2 });
    expect((await signed(id)).attempt).toBe(2);
    expect(await status(id)).toMatchObject({ figures: { failed: 0, pending: 6 } });
    for (const device of fleet) await say(id, device, 'completed', { attempt: 2 });
    await stopped(id, 'completed');
  });
});

describe('silence', () => {
  it('of a device whose gateway delivers other reports pauses; silence of a whole site stops nothing', async () => {
    const gateway = await harness.gateway('north');
    const south = await harness.gateway('south');
    const fleet = await fleetOf(3, 3);
    const { id } = await harness.startRollout({ silentAfterMs: HOUR_MS, maxFailuresBasisPoints: 0 });
    const started = { state: 'downloading' as const, rollout: { id: String(id), attempt: 1 } };
    const members = [...fleet.values()];
    for (const [at, device] of members.entries())
      await device.sendReports([await device.next(started)], at < 3 ? gateway : south);
    await pass(2);
    expect(await status(id)).toMatchObject({ state: 'active', figures: { unreachable: 6, silent: 0 } });
    const [one] = members;
    if (!one) throw new Error('no devices');
    await one.sendReports([await one.next({ ...started, state: 'verifying' })], gateway);
    await pass(0);
    expect(await status(id)).toMatchObject({
      state: 'paused',
      stop: { why: 'silence' },
      figures: { silent: 2, unreachable: 3 },
    });
    expect(await act(id, 'resume')).toMatchObject({ code: 'SITECAST_ACKNOWLEDGE_NEEDED' });
    expect(await act(id, 'resume', { acknowledge: true })).toMatchObject({ state: 'active' });
    await pass(0);
    expect(await status(id)).toMatchObject({ state: 'active' });
  });
});

describe('an operator', () => {
  it('sees how many devices an act would affect', async () => {
    const fleet = await fleetOf(6, 6);
    const { id } = await inStages();
    const [one = ''] = await letIn(id);
    const device = fleet.get(one);
    if (device) await say(id, device, 'completed');
    const touched = async (name: string) =>
      (await harness.call('GET', path(id, `/preview?act=${name}`))).touches;
    expect(await touched('advance')).toBe(4);
    expect(await touched('pause')).toBe(1);
    expect(await touched('rollback')).toBe(1);
    expect(await touched('abort')).toBe(1);
    expect(await touched('retry')).toBe(1);
    expect(await harness.call('GET', path(id, '/preview?act=explode'))).toMatchObject({ httpStatus: 400 });
  });

  it('may repeat every act, and the record names the operator', async () => {
    await fleetOf(6, 6);
    const { id } = await inStages();
    for (const [name, body] of [
      ['pause', undefined],
      ['resume', undefined],
      ['advance', { target: 1 }],
      ['rollback', undefined],
      ['abort', undefined],
    ] as const) {
      const first = await act(id, name, body);
      expect(first).toMatchObject({ httpStatus: 200 });
      expect(await act(id, name, body)).toEqual(first);
    }
    expect(audited.map(({ action, by }) => `${action} by ${by}`)).toEqual([
      'rollout.start by test',
      'rollout.pause by test',
      'rollout.resume by test',
      'rollout.stage by test',
      'rollout.rollback by test',
      'rollout.abort by test',
    ]);
    expect(await act(id, 'pause')).toMatchObject({ code: 'SITECAST_ROLLOUT_ENDED' });
  });
});

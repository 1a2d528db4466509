import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';

let harness: FleetHarness;
beforeEach(async () => {
  harness = await FleetHarness.open(testDisk);
});
afterEach(() => harness.close());

const RELEASE = { counter: 1, version: '1.0.0' };

/** The samples of one metric, by its labels without those that are left out. */
async function samplesOf(name: string, ...leftOut: string[]): Promise<Record<string, number>> {
  const text = await (await harness.ask('/metrics')).text();
  const samples = [...text.matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (.*)$`, 'gm'))];
  return Object.fromEntries(
    samples.map(([, labels = '', value]) => [
      labels
        .split(',')
        .filter(label => !leftOut.some(name => label.startsWith(`${name}=`)))
        .join(','),
      Number(value),
    ]),
  );
}

const devicesOf = () => samplesOf('sitecast_rollout_devices', 'rollout', 'product');

const say = (device: TestMember, id: unknown, state: 'completed' | 'failed') =>
  device.report({
    state,
    release: RELEASE,
    rollout: { id: String(id), attempt: 1 },
    ...(state === 'completed' && { booted: { slot: 'B', release: RELEASE } }),
    ...(state === 'failed' && { reason: { code: 'healthFailed', message: 'exit code 1' } }),
  });

const NONE = {
  'state="succeeded"': 0,
  'state="failed"': 0,
  'state="blocked"': 0,
  'state="rolledBack"': 0,
  'state="running"': 0,
  'state="waiting"': 0,
  'state="pending"': 0,
  'state="revoked"': 0,
};

it('tell how a rollout stands: devices by state, stage, share of failures; and after its end how it ended, also after a restart', async () => {
  const [one, two, three] = [await harness.device(), await harness.device('south'), await harness.device()];
  const plan = { maxFailuresBasisPoints: 5000, minFailures: 3, onFailure: 'pause' };
  const { id } = await harness.startRollout(plan);
  const of = `rollout="${String(id)}",product="camera"`;
  expect(await devicesOf()).toEqual({ ...NONE, 'state="pending"': 3 });
  await say(one, id, 'completed');
  await say(two, id, 'failed');
  const counted = { ...NONE, 'state="succeeded"': 1, 'state="failed"': 1, 'state="pending"': 1 };
  expect(await devicesOf()).toEqual(counted);
  expect(await samplesOf('sitecast_rollout_failure_ratio')).toEqual({ [of]: 1 / 3 });
  expect(await samplesOf('sitecast_rollout_failure_ratio_max')).toEqual({ [of]: 0.5 });
  expect(await samplesOf('sitecast_rollout_stage')).toEqual({ [of]: 1 });
  expect(await samplesOf('sitecast_rollout_stages')).toEqual({ [of]: 1 });
  expect(await samplesOf('sitecast_rollout_soak_left_seconds')).toEqual({});
  const states = () => samplesOf('sitecast_rollout_state', 'rollout', 'product', 'version');
  expect(await states()).toMatchObject({ 'state="active"': 1, 'state="aborted"': 0 });
  await harness.call('POST', `/api/v1/rollouts/${String(id)}/abort`);
  // What devices report afterwards doesn't change how it ended.
  await say(three, id, 'completed');
  for (const isRestarted of [false, true]) {
    if (isRestarted) await harness.restart();
    expect(await states()).toMatchObject({ 'state="active"': 0, 'state="aborted"': 1 });
    expect(await devicesOf()).toEqual(counted);
  }
  await harness.call('POST', `/api/v1/rollouts/${String(id)}/rollback`);
  expect(await states()).toMatchObject({ 'state="aborted"': 0, 'state="rollingBack"': 1 });
});

it('tell of a soak how long it still lasts', async () => {
  const device = await harness.device();
  const { id } = await harness.startRollout({ lastSoakMs: 3_600_000 });
  await say(device, id, 'completed');
  await harness.origin.rollouts.checkCompletion();
  const left = async () => Object.values(await samplesOf('sitecast_rollout_soak_left_seconds'));
  expect(await left()).toEqual([3600]);
  harness.clock.nowMs += 600_000;
  expect(await left()).toEqual([3000]);
});

it('tell of all rollouts under way, and of no more than twenty ended ones', async () => {
  await harness.device();
  for (let count = 0; count < 22; count += 1) {
    const { id } = await harness.startRollout();
    harness.clock.nowMs += 1000;
    await harness.call('POST', `/api/v1/rollouts/${String(id)}/abort`);
  }
  await harness.startRollout();
  expect(Object.keys(await samplesOf('sitecast_rollout_stage'))).toHaveLength(21);
});

it('tell which versions devices run, as they last reported, and how many reports came', async () => {
  const [one, two, three] = [await harness.device(), await harness.device(), await harness.device()];
  const versions = () => samplesOf('sitecast_devices', 'product');
  expect(await versions()).toEqual({ 'version="(unknown)"': 3 });
  const { id } = await harness.startRollout();
  await say(one, id, 'completed');
  await say(two, id, 'completed');
  expect(await versions()).toEqual({ 'version="1.0.0"': 2, 'version="(unknown)"': 1 });
  await harness.call('POST', `/api/v1/devices/${two.id}/revoke`);
  await harness.call('POST', `/api/v1/devices/${three.id}/revoke`);
  expect(await versions()).toEqual({ 'version="1.0.0"': 1 });
  await harness.restart();
  expect(await versions()).toEqual({ 'version="1.0.0"': 1 });
});

it('count reports that are new, and refused ones by code', async () => {
  const [device, foreign] = [await harness.device('north'), await harness.gateway('south')];
  const envelope = await device.next();
  for (const sender of [device, device, foreign]) await device.sendReports([envelope], sender);
  expect(await samplesOf('sitecast_reports_accepted_total')).toEqual({ '': 1 });
  expect(await samplesOf('sitecast_reports_refused_total')).toEqual({
    'code="SITECAST_REPORT_FOREIGN_SITE"': 1,
  });
});

it('name the version that runs, and the last entry of the audit log', async () => {
  const [labels = ''] = Object.keys(await samplesOf('sitecast_build_info'));
  expect(labels).toMatch(/^version="\d+\.\d+\.\d+",node="\d+\.\d+\.\d+"$/);
  const before = Object.values(await samplesOf('sitecast_audit_sequence'))[0] ?? 0;
  await harness.joinToken();
  expect(Object.values(await samplesOf('sitecast_audit_sequence'))[0]).toBe(before + 1);
});

it('are shown though some cannot be read, which is logged once', async () => {
  await harness.close();
  const logged: string[] = [];
  let isFailing = false;
  const room = {
    freeBytes: () => (isFailing ? Promise.reject(new Error('EIO: i/o error, statfs')) : Promise.resolve(1e9)),
    reserveBytes: 7,
    path: '/',
  };
  const withLog = { logged };
  harness = await FleetHarness.open(path => ({ ...testDisk(path), ...withLog, room }));
  const free = () => samplesOf('sitecast_disk_free_bytes');
  const failures = () => logged.filter(line => line.includes('some metrics cannot be read')).length;
  expect([await free(), failures()]).toEqual([{ '': 1e9 }, 0]);
  isFailing = true;
  for (let scrape = 0; scrape < 2; scrape += 1) expect(await free()).toEqual({});
  expect(await samplesOf('sitecast_disk_reserve_bytes')).toEqual({ '': 7 });
  expect(failures()).toBe(1);
  isFailing = false;
  expect(await free()).toEqual({ '': 1e9 });
});

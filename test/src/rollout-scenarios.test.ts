import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Filter } from './testbed/filter.ts';
import { FleetTestbed } from './testbed/fleet-testbed.ts';
import type { LightDevice } from './testbed/light-device.ts';

// One fleet of processes. Each test has a product and devices of its own.

let fleet: FleetTestbed;
beforeAll(async () => {
  fleet = await FleetTestbed.open(['north', 'south', 'west']);
});
afterAll(() => fleet.close());

const sick = { code: 'healthFailed', message: 'exit code 1' };
/** A moment later than `--silent-after 1m`. */
const PAST_DEADLINE_MS = 65_000;

/**
 * A product with devices at the three sites. With ten at each, half of the devices include some of every site, except in one run of 10,000.
 */
async function enrolEverywhere(product: string, perSite: number): Promise<LightDevice[]> {
  await fleet.publish(product);
  const devices = [];
  for (const { name } of fleet.sites) devices.push(...(await fleet.enrol(name, product, perSite)));
  return devices;
}

const running = (devices: readonly LightDevice[], version: string): LightDevice[] =>
  devices.filter(({ release }) => release?.version === version);
const reachedBy = (devices: readonly LightDevice[], id: string): LightDevice[] =>
  devices.filter(({ said }) => said.some(({ rollout, state }) => rollout?.id === id && state !== 'waiting'));

/** The entries of the audit log about a rollout, without the operator's name. */
async function audited(id: string): Promise<{ action: string; by: string; details?: unknown }[]> {
  const { entries } = await fleet.operate('audit');
  if (!Array.isArray(entries)) throw new Error('no entries');
  return entries.filter(({ subject }) => subject === `rollout:${id}`);
}

describe('a bad release', () => {
  it.each([
    ['rollback', 'rollingBack'],
    ['pause', 'paused'],
  ])('is stopped at the canaries, and no other device ever gets it: %s', async (onFailure, state) => {
    const product = `bad-${onFailure}`;
    const devices = await enrolEverywhere(product, 12);
    const plan = ['--stages', '50,100', '--soak', '0s', '--canary-per-site', '--on-failure', onFailure];
    const id = await fleet.rollOut(product, ...plan);
    await fleet.turnUntil(
      product,
      id,
      status => status.state !== 'active',
      () => sick,
    );
    await fleet.untilSigned(product, id, state);
    for (let turns = 0; turns < 3; turns += 1) await fleet.turn(product);

    expect(await fleet.status(id)).toMatchObject({
      state,
      stage: 0,
      stop: { why: 'failures', by: 'origin' },
      figures: { members: 3, failed: 3, failedSites: 3 },
      failures: [{ code: 'healthFailed', count: 3, sites: 3 }],
    });
    const reached = reachedBy(devices, id);
    expect(new Set(reached.map(({ assignment }) => assignment.site)).size).toBe(3);
    expect(reached).toHaveLength(3);
    expect(running(devices, '1.0.0')).toHaveLength(36);
    const decisions = (await audited(id)).filter(({ by }) => by === 'origin');
    expect(decisions.at(-1)).toMatchObject({
      action: onFailure === 'pause' ? 'rollout.pause' : 'rollout.rollback',
      details: { why: 'failures', stage: 0, figures: { members: 3 } },
    });
  });

  it('that fails on one hardware only is stopped and shows which; devices on which it runs keep it', async () => {
    const product = 'boards';
    await fleet.publish(product, ['rpi4', 'rpi5']);
    const devices = [];
    for (const site of ['north', 'south'])
      for (const hardware of ['rpi4', 'rpi5'])
        devices.push(...(await fleet.enrol(site, product, 10, hardware)));
    const plan = ['--all-at-once', '--stages', '50,100', '--soak', '1h', '--on-failure', 'pause'];
    const id = await fleet.rollOut(product, ...plan);
    const fate = ({ hardware }: LightDevice) => (hardware === 'rpi5' ? sick : 'well');
    await fleet.turnUntil(product, id, ({ state }) => state === 'paused', fate);
    await fleet.untilSigned(product, id, 'paused');
    const before = running(devices, '2.0.0');
    for (let turns = 0; turns < 3; turns += 1) await fleet.turn(product, fate);

    const status = await fleet.status(id);
    const failed = reachedBy(devices, id).filter(({ hardware }) => hardware === 'rpi5').length;
    expect(status).toMatchObject({
      state: 'paused',
      stage: 0,
      failures: [{ code: 'healthFailed', hardware: 'rpi5', count: failed }],
      figures: { members: 20, failed, well: before.length },
    });
    expect(before.length).toBeGreaterThan(0);
    expect(before.every(({ hardware }) => hardware === 'rpi4')).toBe(true);
    expect(running(devices, '2.0.0')).toEqual(before);
  });

  it.each([
    ['names the rollout', true],
    ['names just the release', false],
  ])('stops the rollout when a device falls back long after success and %s', async (_how, isNamed) => {
    const product = isNamed ? 'late-named' : 'late-unnamed';
    const devices = await enrolEverywhere(product, 4);
    const plan = ['--all-at-once', '--stages', '50,100', '--soak', '1h', '--on-failure', 'pause'];
    const id = await fleet.rollOut(product, ...plan);
    await fleet.turnUntil(product, id, ({ settledAt }) => settledAt !== undefined);
    const [device] = running(devices, '2.0.0');
    await device?.fallBackLate(isNamed ? { id, attempt: 1 } : undefined);
    await fleet.testbed.until(async () => (await fleet.status(id)).state === 'paused');
    expect(await fleet.status(id)).toMatchObject({
      stop: { why: 'failures' },
      figures: { failed: 1, well: 5 },
      failures: [{ code: 'bootCountExhausted', devices: [device?.id] }],
    });
    await fleet.untilSigned(product, id, 'paused');
    await fleet.turn(product);
    expect(running(devices, '2.0.0')).toHaveLength(5);
  });

  it('is tried again after a retry where it failed; and a completed rollout can be rolled back', async () => {
    const product = 'again';
    const devices = await enrolEverywhere(product, 4);
    const plan = ['--all-at-once', '--on-failure', 'pause', '--last-soak', '1h'];
    const id = await fleet.rollOut(product, ...plan);
    // The site is the one whose turn comes last, so all others have taken the order before the pause.
    const unlucky = new Set(devices.slice(-2));
    const fate = (device: LightDevice) => (unlucky.has(device) ? sick : 'well');
    const isTold = (status: Record<string, unknown>): boolean =>
      figuresOf(status).failed === 2 && figuresOf(status).well === 10;
    const paused = await fleet.turnUntil(product, id, isTold, fate);
    expect(paused).toMatchObject({ figures: { failed: 2, well: 10 } });
    await fleet.untilSigned(product, id, 'paused');
    await fleet.operate('rollout', 'resume', id, '--acknowledge', '--yes');
    await fleet.untilSigned(product, id, 'active');
    // The release is barred there, whatever a new try would bring.
    await fleet.turn(product);
    expect(running(devices, '2.0.0')).toHaveLength(10);
    expect(await fleet.operate('rollout', 'retry', id, '--yes')).toMatchObject({ attempt: 2 });
    const soaking = await fleet.turnUntil(product, id, ({ settledAt }) => settledAt !== undefined);
    expect(soaking).toMatchObject({ state: 'active', figures: { well: 12 } });
    expect(running(devices, '2.0.0')).toHaveLength(12);
    await fleet.operate('rollout', 'complete', id, '--yes');
    await fleet.untilSigned(product, id, 'completed');
    await fleet.turn(product);
    await fleet.operate('rollout', 'rollback', id, '--yes');
    await fleet.untilSigned(product, id, 'rollingBack');
    await fleet.turnUntil(product, id, status => figuresOf(status).returned === 12);
    expect(running(devices, '1.0.0')).toHaveLength(12);
  });
});

it('a site that goes dark stops nothing and rolls nothing back; later it catches up', async () => {
  const product = 'dark';
  const devices = await enrolEverywhere(product, 10);
  const south = fleet.site('south');
  const plan = ['--all-at-once', '--stages', '50,100', '--soak', '0s', '--silent-after', '1m'];
  const id = await fleet.rollOut(product, ...plan);
  const isSouth = ({ assignment }: LightDevice) => assignment.site === 'south';
  const lit = devices.filter(device => !isSouth(device));
  await fleet.turn(product, device => (isSouth(device) ? 'hangs' : 'well'));
  const begun = reachedBy(devices, id).filter(isSouth).length;
  expect(begun).toBeGreaterThan(0);
  await fleet.testbed.until(async () => Number(figuresOf(await fleet.status(id)).running) === begun);
  await fleet.killGateway(south);
  // No device is past its deadline yet, so the stage waits.
  await fleet.turn(product);
  expect(await fleet.status(id)).toMatchObject({ state: 'active', stage: 0 });

  await fleet.restartOrigin(PAST_DEADLINE_MS);
  const grown = await fleet.turnUntil(product, id, status => figuresOf(status).well === lit.length);
  expect(grown).toMatchObject({ state: 'active', stage: 1, figures: { failed: 0, silent: 0 } });
  await fleet.restartOrigin(PAST_DEADLINE_MS);
  const shown = await fleet.status(id);
  expect(shown).toMatchObject({ state: 'active', figures: { failed: 0, silent: 0, unreachable: 10 } });
  expect(running(devices, '2.0.0')).toHaveLength(lit.length);

  await fleet.restartGateway(south);
  await fleet.turnUntil(product, id, ({ state }) => state === 'completed');
  expect(running(devices, '2.0.0')).toHaveLength(30);
  expect((await audited(id)).map(({ action }) => action)).toEqual([
    'rollout.start',
    'rollout.stage',
    'rollout.complete',
  ]);
});

it('a gateway that withholds reports causes neither success nor failure, and no stage passes over it unnoticed', async () => {
  const product = 'withheld';
  const west = fleet.site('west');
  const filter = await Filter.open(west.gateway.url);
  west.url = filter.url;
  try {
    const devices = await enrolEverywhere(product, 10);
    const atWest = devices.filter(({ assignment }) => assignment.site === 'west');
    const plan = ['--all-at-once', '--stages', '50,100', '--soak', '1h,1h', '--silent-after', '1m'];
    const id = await fleet.rollOut(product, ...plan);
    await fleet.turn(product, ({ assignment }) => (assignment.site === 'west' ? 'hangs' : 'well'));
    const affected = atWest.filter(device => reachedBy([device], id).length > 0);
    expect(affected.length).toBeGreaterThan(0);
    const [bystander] = await fleet.enrol('west', 'bystander', 1);
    await fleet.testbed.until(
      async () => Number(figuresOf(await fleet.status(id)).running) === affected.length,
    );
    // Metadata gets through and reports don't. The devices succeed, and the origin doesn't learn of it.
    filter.rule = ({ path }) => (path === '/site/v1/reports' ? { status: 202, body: {} } : 'pass');
    await fleet.turn(product);
    const well = running(devices, '2.0.0').length;
    expect(well).toBe(15);
    const held = await fleet.status(id);
    expect(held).toMatchObject({
      state: 'active',
      stage: 0,
      figures: { failed: 0, well: well - affected.length, running: affected.length },
    });
    expect(held.settledAt).toBeUndefined();

    // The deadline has passed. As long as the gateway sends nothing at all, the WAN may be down.
    await fleet.restartOrigin(PAST_DEADLINE_MS, { minuteMs: 500 });
    const unreachable = await fleet.status(id);
    expect(unreachable).toMatchObject({
      state: 'active',
      stage: 0,
      figures: { failed: 0, silent: 0, unreachable: affected.length },
    });
    // The gateway reports another device, so these devices count as silent. The check of the next minute finds that without a further
    // report.
    filter.rule = () => 'pass';
    await bystander?.say({ state: 'idle', reason: { code: 'SITECAST_STILL_HERE', message: 'nothing new' } });
    await bystander?.deliver();
    await fleet.testbed.until(async () => {
      const { last } = await fleet.operate('device', 'show', bystander?.id ?? '');
      return JSON.stringify(last).includes('SITECAST_STILL_HERE');
    });
    await fleet.testbed.until(async () => (await fleet.status(id)).state !== 'active');
    const silent = await fleet.status(id);
    expect(silent).toMatchObject({
      state: 'paused',
      stage: 0,
      stop: { why: 'silence', by: 'origin' },
      figures: { failed: 0, silent: affected.length },
    });
    expect(
      Array.isArray(silent.devices) && silent.devices.filter(({ overdue }) => overdue === 'silent'),
    ).toHaveLength(affected.length);

    // The withheld reports arrive through another gateway, and count.
    for (const device of affected) await device.deliverAgain(fleet.atOrigin);
    expect(await fleet.status(id)).toMatchObject({ figures: { failed: 0, silent: 0, running: 0, well } });
  } finally {
    west.url = west.gateway.url;
    filter.close();
  }
});

function figuresOf(status: Record<string, unknown>): Record<string, unknown> {
  const { figures } = status;
  return typeof figures === 'object' && figures !== null ? { ...figures } : {};
}

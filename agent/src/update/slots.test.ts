import { randomBytes } from 'node:crypto';
import { open, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DeviceChanges, TestDevice } from '../testing/device.ts';
import { TestFleet } from '../testing/fleet.ts';
import { FakeOrigin, FakeGateway } from '../testing/gateway.ts';

const image1 = randomBytes(200_000);
const image2 = randomBytes(200_000);
let fleet: TestFleet;
let origin: FakeOrigin;
let site: FakeGateway;
let device: TestDevice;

beforeEach(async () => {
  fleet = await TestFleet.create();
  origin = new FakeOrigin(fleet);
  site = await FakeGateway.open(origin);
  device = await TestDevice.create([site.url], fleet.rootBytes);
  fleet.addRelease({ counter: 1, image: image1 });
  fleet.addRelease({ counter: 2, image: image2 });
  fleet.rollOut(1);
  await fleet.publish();
});
afterEach(async () => {
  await device.remove();
  await site.close();
});

const path = (name: string) => join(device.directory, name);
const told = () => origin.told(device.id);
const chunks = () => site.count('/chunks/');
const boot = () => device.parts.boot.read();

async function alter(file: string): Promise<void> {
  const handle = await open(path(file), 'r+');
  const [byte = 0] = (await handle.read(Buffer.alloc(1), 0, 1, 100_000)).buffer;
  await handle.write(Buffer.of(byte ^ 1), 0, 1, 100_000);
  await handle.close();
}

async function rollOut(counter: number) {
  const rollout = fleet.rollOut(counter);
  await fleet.publish();
  return rollout;
}

describe('a slot that was verified and then altered', () => {
  const alterLater = async () => {
    site.lease = () => ({ granted: false, retryAfterMs: 10 });
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
    expect(await device.slot('B')).toEqual(image1);
    await alter('b.img');
    site.lease = () => ({ granted: true });
  };

  it('while it waited is read back before it is activated, and what is wrong fetched again', async () => {
    await alterLater();
    const before = chunks();
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(await device.slot('B')).toEqual(image1);
    expect(chunks() - before).toBe(1);
    expect(told().map(({ state }) => state)).not.toContain('failed');
  });

  it('waits where the right bytes are not to be had, and is bad until they are', async () => {
    await device.open({ haste: 100 });
    await alterLater();
    site.mischief = requested => (requested.startsWith('/chunks/') ? 'missing' : undefined);
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'source' });
    expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
    expect(device.parts.stateFile.current.slots.B).toMatchObject({ state: 'bad' });
    site.mischief = () => undefined;
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(await device.slot('B')).toEqual(image1);
  });

  it('in the cycle that verified it, but long ago by the clock, is read back too', async () => {
    const changes: DeviceChanges = { clockOffsetMs: 0 };
    await device.open(changes);
    let altered: Promise<void> | undefined;
    site.lease = () => {
      altered ??= alter('b.img');
      // A minute goes by.
      changes.clockOffsetMs = 61_000;
      return { granted: true };
    };
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(altered).toBeDefined();
    expect(await device.slot('B')).toEqual(image1);
  });

  const flip = 'printf x | dd of="$SITECAST_SLOT" bs=1 seek=1000 conv=notrunc 2>&1';

  it('by its hook is read back after the hook', async () => {
    const hook = `test -e ${path('once')} || { touch ${path('once')}; ${flip}; }`;
    await device.open({ settings: { hooks: { 'pre-install': hook } } });
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(await device.slot('B')).toEqual(image1);
  });

  it('again and again is given up: nothing of it was activated', async () => {
    await device.open({ settings: { hooks: { 'pre-install': flip } } });
    expect(await device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_UNRELIABLE', message: expect.stringContaining('no longer holds 1.0.0') },
    });
    expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
    expect(told().map(({ state }) => state)).not.toContain('installing');
  });

  it('that an order leads back to is fetched again, also after a try that was cut off', async () => {
    await device.open({ haste: 100 });
    await device.cycle();
    const rollout = await rollOut(2);
    await device.cycle();
    await alter('b.img');
    rollout.state = 'rollingBack';
    await fleet.publish();
    site.mischief = requested => (requested.startsWith('/chunks/') ? 'missing' : undefined);
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'source' });
    await device.close();
    await device.open({ haste: 100 });
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'source' });
    expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
    site.mischief = () => undefined;
    const before = chunks();
    expect(await device.cycle()).toMatchObject({ state: 'rolledBack' });
    expect(await device.slot('B')).toEqual(image1);
    expect(chunks() - before).toBe(1);
  });

  it('while an order to go back to it waited is fetched again', async () => {
    await device.cycle();
    const rollout = await rollOut(2);
    await device.cycle();
    rollout.state = 'rollingBack';
    await fleet.publish();
    await alterLaterThan(rollout.release.version);
    expect(await device.cycle()).toMatchObject({ state: 'rolledBack' });
    expect(await device.slot('B')).toEqual(image1);
  });

  async function alterLaterThan(version: string): Promise<void> {
    site.lease = () => ({ granted: false, retryAfterMs: 10 });
    expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
    expect(device.parts.stateFile.current.slots.A.release?.version).toBe(version);
    await alter('b.img');
    site.lease = () => ({ granted: true });
  }

  it('before the agent was started again is filled again, like any', async () => {
    await alterLater();
    await device.close({ isCut: true });
    await device.open();
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(await device.slot('B')).toEqual(image1);
  });
});

it('a release that is withdrawn between its verification and its activation is not activated', async () => {
  const before = new Map(fleet.files);
  site.frozen = before;
  fleet.withdraw(1);
  await fleet.publish();
  site.lease = () => {
    site.frozen = undefined;
    return { granted: true };
  };
  expect(await device.cycle()).toMatchObject({ state: 'idle', retryMs: 0 });
  expect(await device.slot('B')).toEqual(image1);
  expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
  expect(told().at(-1)?.reason?.message).toContain('no longer listed');
  expect(await device.cycle()).toMatchObject({
    state: 'blocked',
    reason: { code: 'SITECAST_RELEASE_UNUSABLE' },
  });
});

describe('a slot that is not there', () => {
  const missing = { state: 'waiting', waitingFor: 'slot', reason: { code: 'SITECAST_SLOT_MISSING' } };

  it('is waited for and told of; no hook runs, nothing is marked, and it goes on once it is there', async () => {
    const slots = { A: path('a.img'), B: path('link') };
    await symlink('/dev/sitecast-nosuch', slots.B);
    await device.open({ settings: { slots, hooks: { 'pre-download': `touch ${path('asked')}` } } });
    expect(await device.cycle()).toMatchObject(missing);
    expect(told().at(-1)).toMatchObject({ state: 'waiting', reason: { code: 'SITECAST_SLOT_MISSING' } });
    await expect(readFile(path('asked'))).rejects.toMatchObject({ code: 'ENOENT' });
    expect(device.parts.stateFile.current.slots.B).toEqual({ state: 'empty' });
    await rm(slots.B);
    await writeFile(path('late.img'), '');
    await symlink(path('late.img'), slots.B);
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(await readFile(path('late.img'))).toEqual(image1);
  });

  it('any more is waited for: a file that held an image is not made anew by itself', async () => {
    await device.cycle();
    await rollOut(2);
    await device.cycle();
    expect(device.parts.stateFile.current.slotPlaces?.B).toEqual({ path: path('b.img'), isThere: true });
    await rm(path('b.img'));
    fleet.addRelease({ counter: 3, image: image1 });
    await rollOut(3);
    expect(await device.cycle()).toMatchObject(missing);
    // As a version left it that remembered no places.
    await device.parts.stateFile.change({ slotPlaces: undefined });
    await device.close();
    await device.open();
    expect(await device.cycle()).toMatchObject(missing);
    await writeFile(path('b.img'), '');
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(await device.slot('B')).toEqual(image1);
  });

  it('though it runs is not taken for an empty one: what the factory left is seen once it comes', async () => {
    const slots = { A: path('link'), B: path('b.img') };
    await symlink('/dev/sitecast-nosuch', slots.A);
    await device.open({ settings: { slots, factoryRelease: { counter: 1, version: '1.0.0' } } });
    expect(await device.cycle()).toMatchObject(missing);
    expect(told().at(-1)).toMatchObject({ state: 'waiting', reason: { code: 'SITECAST_SLOT_MISSING' } });
    expect(device.parts.stateFile.current.booted).toBeUndefined();
    await rm(slots.A);
    await writeFile(slots.A, image1);
    expect(await device.cycle()).toMatchObject({ state: 'idle' });
    expect(device.parts.stateFile.current.slots.A).toMatchObject({
      isConfirmed: true,
      release: { counter: 1 },
    });
    expect(chunks()).toBe(0);
  });
});

it('a slot whose link leads to the one that runs is not written, and goes on when it leads elsewhere', async () => {
  const slots = { A: path('a.img'), B: path('link') };
  await writeFile(slots.A, 'what runs');
  await writeFile(path('b.img'), '');
  await symlink(path('b.img'), slots.B);
  await device.open({ settings: { slots } });
  await rm(slots.B);
  await symlink(path('a.img'), slots.B);
  expect(await device.cycle()).toMatchObject({
    state: 'waiting',
    waitingFor: 'slot',
    reason: { code: 'SITECAST_SLOT_OVERLAP' },
  });
  expect(await readFile(slots.A, 'utf8')).toBe('what runs');
  expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
  await rm(slots.B);
  await symlink(path('b.img'), slots.B);
  expect(await device.cycle()).toMatchObject({ state: 'completed' });
  expect(await readFile(slots.A, 'utf8')).toBe('what runs');
});

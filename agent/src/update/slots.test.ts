import { randomBytes } from 'node:crypto';
import { open, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileSlot } from '../adapters/file-slot.ts';
import { type DeviceChanges } from '../testing/device.ts';
import { AgentHarness } from '../testing/harness.ts';

const image1 = randomBytes(200_000);
const image2 = randomBytes(200_000);

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [image1, image2] });
});
afterEach(async () => {
  await harness.close();
});

const path = (name: string) => join(harness.device.directory, name);
const told = () => harness.reports;
const chunks = () => harness.gateway.count('/chunks/');
const boot = () => harness.device.parts.boot.read();

async function alter(file: string): Promise<void> {
  const handle = await open(path(file), 'r+');
  const [byte = 0] = (await handle.read(Buffer.alloc(1), 0, 1, 100_000)).buffer;
  await handle.write(Buffer.of(byte ^ 1), 0, 1, 100_000);
  await handle.close();
}

async function rollOut(counter: number) {
  const rollout = harness.fleet.addRollout(counter);
  await harness.fleet.publishAll();
  return rollout;
}

it('is read back once while it waits, and once more before it is activated', async () => {
  let readBacks = 0;
  class CountingSlot extends FileSlot {
    override openForReadBack() {
      readBacks += 1;
      return super.openForReadBack();
    }
  }
  await harness.device.open({ slots: { B: new CountingSlot(path('b.img'), { other: path('a.img') }) } });
  harness.gateway.lease = () => ({ granted: false, retryAfterMs: 10 });
  for (let cycles = 0; cycles < 3; cycles += 1)
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
  expect(readBacks).toBe(1);
  harness.gateway.lease = () => ({ granted: true });
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(readBacks).toBe(2);
});

describe('a slot that was verified and then altered', () => {
  const alterLater = async () => {
    harness.gateway.lease = () => ({ granted: false, retryAfterMs: 10 });
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
    expect(await harness.device.slot('B')).toEqual(image1);
    await alter('b.img');
    harness.gateway.lease = () => ({ granted: true });
  };

  it('while it waited is read back before it is activated, and wrong chunks are fetched again', async () => {
    await alterLater();
    const before = chunks();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(image1);
    expect(chunks() - before).toBe(1);
    expect(told().map(({ state }) => state)).not.toContain('failed');
  });

  it('waits where the right bytes cannot be fetched, and stays marked bad until they are', async () => {
    await harness.device.open({ haste: 100 });
    await alterLater();
    harness.gateway.misbehave = requested => (requested.startsWith('/chunks/') ? 'missing' : undefined);
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'source' });
    expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
    expect(harness.device.parts.stateFile.current.slots.B).toMatchObject({ state: 'bad' });
    harness.gateway.misbehave = () => undefined;
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(image1);
  });

  it('after the cycle has verified it long ago by the clock is read back, too', async () => {
    const changes: DeviceChanges = { clockOffsetMs: 0 };
    await harness.device.open(changes);
    let altered: Promise<void> | undefined;
    harness.gateway.lease = () => {
      altered ??= alter('b.img');
      // A minute passes.
      changes.clockOffsetMs = 61_000;
      return { granted: true };
    };
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(altered).toBeDefined();
    expect(await harness.device.slot('B')).toEqual(image1);
  });

  const flip = 'printf x | dd of="$SITECAST_SLOT" bs=1 seek=1000 conv=notrunc 2>&1';

  it('by its hook is read back after the hook', async () => {
    const hook = `test -e ${path('once')} || { touch ${path('once')}; ${flip}; }`;
    await harness.device.open({ settings: { hooks: { 'pre-install': hook } } });
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(image1);
  });

  it('again and again is given up, and never activated', async () => {
    await harness.device.open({ settings: { hooks: { 'pre-install': flip } } });
    expect(await harness.device.cycle()).toMatchObject({
      state: 'failed',
      reason: { code: 'SITECAST_SLOT_UNRELIABLE', message: expect.stringContaining('no longer holds 1.0.0') },
    });
    expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
    expect(told().map(({ state }) => state)).not.toContain('installing');
  });

  it('and that a roll-back leads to is fetched again, also after an interrupted try', async () => {
    await harness.device.open({ haste: 100 });
    await harness.device.cycle();
    const rollout = await rollOut(2);
    await harness.device.cycle();
    await alter('b.img');
    rollout.state = 'rollingBack';
    await harness.fleet.publishAll();
    harness.gateway.misbehave = requested => (requested.startsWith('/chunks/') ? 'missing' : undefined);
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'source' });
    await harness.device.close();
    await harness.device.open({ haste: 100 });
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'source' });
    expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
    harness.gateway.misbehave = () => undefined;
    const before = chunks();
    expect(await harness.device.cycle()).toMatchObject({ state: 'rolledBack' });
    expect(await harness.device.slot('B')).toEqual(image1);
    expect(chunks() - before).toBe(1);
  });

  it('while a roll-back to it waited is fetched again', async () => {
    await harness.device.cycle();
    const rollout = await rollOut(2);
    await harness.device.cycle();
    rollout.state = 'rollingBack';
    await harness.fleet.publishAll();
    await alterLaterThan(rollout.release.version);
    expect(await harness.device.cycle()).toMatchObject({ state: 'rolledBack' });
    expect(await harness.device.slot('B')).toEqual(image1);
  });

  async function alterLaterThan(version: string): Promise<void> {
    harness.gateway.lease = () => ({ granted: false, retryAfterMs: 10 });
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
    expect(harness.device.parts.stateFile.current.slots.A.release?.version).toBe(version);
    await alter('b.img');
    harness.gateway.lease = () => ({ granted: true });
  }

  it('before the agent was restarted is filled again like any other slot', async () => {
    await alterLater();
    await harness.device.close({ isCut: true });
    await harness.device.open();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(image1);
  });
});

it('a release that is withdrawn between its verification and its activation is not activated', async () => {
  const before = harness.fleet.snapshotOfFiles();
  harness.gateway.frozen = before;
  harness.fleet.withdraw(1);
  await harness.fleet.publishAll();
  harness.gateway.lease = () => {
    harness.gateway.frozen = undefined;
    return { granted: true };
  };
  expect(await harness.device.cycle()).toMatchObject({ state: 'idle', retryMs: 0 });
  expect(await harness.device.slot('B')).toEqual(image1);
  expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
  expect(told().at(-1)?.reason?.message).toContain('no longer listed');
  expect(await harness.device.cycle()).toMatchObject({
    state: 'blocked',
    reason: { code: 'SITECAST_RELEASE_UNUSABLE' },
  });
});

describe('a slot that is missing', () => {
  const missing = { state: 'waiting', waitingFor: 'slot', reason: { code: 'SITECAST_SLOT_MISSING' } };

  it('is waited for and reported; no hook runs, nothing is marked, and the update continues once it is there', async () => {
    const slots = { A: path('a.img'), B: path('link') };
    await symlink('/dev/sitecast-nosuch', slots.B);
    await harness.device.open({ settings: { slots, hooks: { 'pre-download': `touch ${path('asked')}` } } });
    expect(await harness.device.cycle()).toMatchObject(missing);
    expect(told().at(-1)).toMatchObject({ state: 'waiting', reason: { code: 'SITECAST_SLOT_MISSING' } });
    await expect(readFile(path('asked'))).rejects.toMatchObject({ code: 'ENOENT' });
    expect(harness.device.parts.stateFile.current.slots.B).toEqual({ state: 'empty' });
    await rm(slots.B);
    await writeFile(path('late.img'), '');
    await symlink(path('late.img'), slots.B);
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await readFile(path('late.img'))).toEqual(image1);
  });

  it('after it held an image is waited for, and not created again', async () => {
    await harness.device.cycle();
    await rollOut(2);
    await harness.device.cycle();
    expect(harness.device.parts.stateFile.current.slotPlaces?.B).toEqual({
      path: path('b.img'),
      isThere: true,
    });
    await rm(path('b.img'));
    harness.fleet.addRelease({ counter: 3, image: image1 });
    await rollOut(3);
    expect(await harness.device.cycle()).toMatchObject(missing);
    // The state of a version that didn't remember slot places.
    await harness.device.parts.stateFile.change({ slotPlaces: undefined });
    await harness.device.close();
    await harness.device.open();
    expect(await harness.device.cycle()).toMatchObject(missing);
    await writeFile(path('b.img'), '');
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(image1);
  });

  it('although it is running is not taken for empty: the factory’s image is noted as soon as the slot is there', async () => {
    const slots = { A: path('link'), B: path('b.img') };
    await symlink('/dev/sitecast-nosuch', slots.A);
    await harness.device.open({ settings: { slots, factoryRelease: { counter: 1, version: '1.0.0' } } });
    expect(await harness.device.cycle()).toMatchObject(missing);
    expect(told().at(-1)).toMatchObject({ state: 'waiting', reason: { code: 'SITECAST_SLOT_MISSING' } });
    expect(harness.device.parts.stateFile.current.booted).toBeUndefined();
    await rm(slots.A);
    await writeFile(slots.A, image1);
    expect(await harness.device.cycle()).toMatchObject({ state: 'idle' });
    expect(harness.device.parts.stateFile.current.slots.A).toMatchObject({
      isConfirmed: true,
      release: { counter: 1 },
    });
    expect(chunks()).toBe(0);
  });
});

it('a slot whose link leads to the running one is not written, and the update continues when it leads elsewhere', async () => {
  const slots = { A: path('a.img'), B: path('link') };
  await writeFile(slots.A, 'what runs');
  await writeFile(path('b.img'), '');
  await symlink(path('b.img'), slots.B);
  await harness.device.open({ settings: { slots } });
  await rm(slots.B);
  await symlink(path('a.img'), slots.B);
  expect(await harness.device.cycle()).toMatchObject({
    state: 'waiting',
    waitingFor: 'slot',
    reason: { code: 'SITECAST_SLOT_OVERLAP' },
  });
  expect(await readFile(slots.A, 'utf8')).toBe('what runs');
  expect(await boot()).toMatchObject({ booted: 'A', next: 'A' });
  await rm(slots.B);
  await symlink(path('b.img'), slots.B);
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  expect(await readFile(slots.A, 'utf8')).toBe('what runs');
});

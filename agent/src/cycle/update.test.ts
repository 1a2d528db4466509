import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TestDevice } from '../adapters/test-device.ts';
import { TestFleet } from '../testing/fleet.ts';
import { TestOrigin, TestSite } from '../testing/site.ts';

let fleet: TestFleet;
let origin: TestOrigin;
let site: TestSite;
let device: TestDevice;
const image1 = randomBytes(300_000);
const image2 = Buffer.concat([image1.subarray(0, 200_000), randomBytes(90_000)]);

beforeEach(async () => {
  fleet = await TestFleet.create();
  origin = new TestOrigin(fleet);
  site = await TestSite.open(origin);
  device = await TestDevice.create([site.url], fleet.rootBytes);
});
afterEach(async () => {
  await device.remove();
  await site.close();
});

const states = () => origin.told(device.id).map(({ state }) => state);

async function install(counter: number, image: Buffer, changes = {}) {
  fleet.addRelease({ counter, image });
  const rollout = fleet.rollOut(counter, changes);
  await fleet.publish();
  return { rollout, rest: await device.cycle() };
}

describe('an update', () => {
  it('is fetched, verified, activated, found healthy and reported', async () => {
    const { rest, rollout } = await install(1, image1);
    expect(rest).toMatchObject({ state: 'completed' });
    expect(await device.slot('B')).toEqual(image1);
    const { memory, boot } = device.parts;
    expect(await boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    expect(memory.current.slots.B).toMatchObject({ state: 'verified', release: { counter: 1 } });
    expect(states()).toEqual([
      'idle',
      'downloading',
      'verifying',
      'installing',
      'rebooting',
      'confirming',
      'completed',
    ]);
    expect(origin.told(device.id).at(-1)).toMatchObject({
      rollout: { id: rollout.id, attempt: 1 },
      release: { counter: 1, version: '1.0.0' },
      booted: { slot: 'B' },
    });
    expect(await device.cycle()).toMatchObject({ state: 'idle' });
    expect(device.parts.outbox.pendingCount).toBe(0);
  });

  it('goes to the slot that does not run, and fetches nothing that lies right there', async () => {
    await install(1, image1);
    await install(2, image2);
    expect(await device.slot('A')).toEqual(image2);
    const chunks = site.count('/chunks/');
    // Slot B still holds the same bytes, as another release.
    expect((await install(3, image1)).rest).toMatchObject({ state: 'completed' });
    expect(site.count('/chunks/')).toBe(chunks);
    expect(await device.slot('B')).toEqual(image1);
  });

  it('whose health check fails falls back, is reported, barred, and not tried again', async () => {
    await install(1, image1);
    await device.close();
    await device.open({ settings: { hooks: { health: 'exit 3' } } });
    const { rest, rollout } = await install(2, image2);
    expect(rest).toMatchObject({ state: 'rolledBack', reason: { code: 'healthFailed' } });
    expect(await device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    expect(device.parts.memory.current.slots.A).toMatchObject({ state: 'bad' });
    expect(states().slice(-3)).toEqual(['confirming', 'failed', 'rolledBack']);
    const chunks = site.count('/chunks/');
    expect(await device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_RELEASE_BARRED' },
    });
    expect(site.count('/chunks/')).toBe(chunks);
    await device.close();
    await device.open();
    rollout.attempt = 2;
    await fleet.publish();
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    // It lay whole in the slot: marked bad, but right.
    expect(site.count('/chunks/')).toBe(chunks);
  });
});

import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { TestDevice } from '../testing/device.ts';
import { killPoints } from '../faults.ts';
import { TestFleet } from '../testing/fleet.ts';
import { FakeOrigin, FakeGateway } from '../testing/gateway.ts';

// In one process, and cut by an exception that nothing catches: every point of a cycle. What a real SIGKILL does at
// some of them, ../kill-process.test.ts tries.

class Cut extends Error {}

const image = randomBytes(30_000);
let origin: FakeOrigin;
let site: FakeGateway;

beforeAll(async () => {
  const fleet = await TestFleet.create();
  origin = new FakeOrigin(fleet);
  site = await FakeGateway.open(origin);
  fleet.addRelease({ counter: 1, image });
  fleet.rollOut(1);
  await fleet.publish();
});
afterAll(async () => {
  await site.close();
});

const complete = ['idle', 'downloading', 'verifying', 'installing', 'rebooting', 'confirming', 'completed'];

async function updateWithCutAt(point: number) {
  const device = await TestDevice.create([site.url], origin.fleet.rootBytes);
  site.requests.length = 0;
  let name: string | undefined;
  const passPoint = killPoints(passed => {
    name = passed;
    throw new Cut();
  }, point);
  try {
    await device.open({ passPoint });
    await device.cycle();
  } catch (error) {
    if (!(error instanceof Cut)) throw error;
  }
  if (name !== undefined) {
    await device.close({ isCut: true });
    await device.open();
  }
  await device.cycle();
  await device.cycle();
  const result = {
    slot: await device.slot('B'),
    boot: await device.parts.boot.read(),
    told: origin.told(device.id),
    pending: device.parts.outbox.pendingCount,
    chunks: site.requests.filter(path => path.startsWith('/chunks/')),
  };
  await device.remove();
  return { name, ...result };
}

/** All of them take a minute: SITECAST_TEST_EVERY_POINT=1 does that. */
const step = process.env.SITECAST_TEST_EVERY_POINT === '1' ? 1 : 6;

it('goes on after a cut at numbered points of an update, to the same slot, fetching nothing twice, telling all once', async () => {
  let point = 1;
  for (; ; point += step) {
    const { name, slot, boot, told, pending, chunks } = await updateWithCutAt(point);
    const states = told.filter(({ reason }) => reason?.code !== 'powerLoss').map(({ state }) => state);
    const found = {
      point,
      name,
      isRight: slot.equals(image),
      booted: boot.booted,
      next: boot.next,
      states,
      pending,
    };
    const expected = { point, name, isRight: true, booted: 'B', next: 'B', states: complete, pending: 0 };
    expect(found).toEqual(expected);
    // Up to `concurrency` were on their way when it was cut.
    expect(chunks.length - new Set(chunks).size).toBeLessThanOrEqual(4);
    if (name === undefined) break;
  }
  expect(point).toBeGreaterThan(40);
  expect(origin.conflicts).toEqual([]);
});

import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Failpoint } from '../adapters/failpoints.ts';
import { TestDevice } from '../testing/device.ts';
import { TestFleet } from '../testing/fleet.ts';
import { FakeOrigin, FakeGateway } from '../testing/gateway.ts';
import { powerCutAt, untilPowerCut } from '../testing/power-cut.ts';

// In one process: the power goes at failpoints of an update. ../process.test.ts tries a real SIGKILL at some of them.

const image = randomBytes(30_000);
let origin: FakeOrigin;
let gateway: FakeGateway;

beforeAll(async () => {
  const fleet = await TestFleet.create();
  origin = new FakeOrigin(fleet);
  gateway = await FakeGateway.open(origin);
  fleet.addRelease({ counter: 1, image });
  fleet.rollOut(1);
  await fleet.publish();
});
afterAll(async () => {
  await gateway.close();
});

const complete = ['idle', 'downloading', 'verifying', 'installing', 'rebooting', 'confirming', 'completed'];

/** @param failpoint for the first run; where it cuts the power, the device starts again */
async function update(failpoint: Failpoint) {
  const device = await TestDevice.create([gateway.url], origin.fleet.rootBytes);
  gateway.requests.length = 0;
  const isCut = await untilPowerCut(async () => {
    await device.open({ failpoint });
    await device.cycle();
  });
  if (isCut) {
    await device.close({ isCut: true });
    await device.open();
  }
  await device.cycle();
  await device.cycle();
  const boot = await device.parts.boot.read();
  const chunks = gateway.requests.filter(path => path.startsWith('/chunks/'));
  const found = {
    isCut,
    isRight: (await device.slot('B')).equals(image),
    booted: boot.booted,
    next: boot.next,
    states: origin
      .told(device.id)
      .filter(({ reason }) => reason?.code !== 'powerLoss')
      .map(({ state }) => state),
    pending: device.parts.outbox.pendingCount,
  };
  await device.remove();
  return { found, repeated: chunks.length - new Set(chunks).size };
}

/** In their order, as `NAME#N`. */
async function failpointsOfAnUpdate(): Promise<string[]> {
  const reached = new Map<string, number>();
  const all: string[] = [];
  const { found } = await update(name => {
    const times = (reached.get(name) ?? 0) + 1;
    reached.set(name, times);
    all.push(`${name}#${times}`);
  });
  expect(found).toMatchObject({ isCut: false, states: complete });
  return all;
}

/** Each name at its first place, and some more. SITECAST_TEST_EVERY_POINT=1 takes all of them: two minutes. */
const isChosen = (where: string, at: number): boolean =>
  process.env.SITECAST_TEST_EVERY_POINT === '1' || where.endsWith('#1') || at % 12 === 0;

it('goes on after a power cut at each failpoint of an update, to the same slot, fetching nothing twice, telling all once', async () => {
  const all = await failpointsOfAnUpdate();
  expect(all.length).toBeGreaterThan(100);
  const expected = {
    isCut: true,
    isRight: true,
    booted: 'B',
    next: 'B',
    states: complete,
    pending: 0,
  };
  for (const where of all.filter(isChosen)) {
    const { found, repeated } = await update(powerCutAt(where));
    expect({ where, ...found }).toEqual({ where, ...expected });
    // Up to `concurrency` were on their way when it was cut.
    expect(repeated).toBeLessThanOrEqual(4);
  }
  expect(origin.conflicts).toEqual([]);
});

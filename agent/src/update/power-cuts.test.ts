import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Failpoint } from '../adapters/failpoints.ts';
import { TestDevice } from '../testing/device.ts';
import { FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { FakeGateway } from '../testing/fake-gateway.ts';
import { powerCutAt, untilPowerCut } from '../testing/power-cut.ts';

// These tests stay in one process: the power fails at failpoints of an update. ../process.test.ts tries a real SIGKILL at some of them.

const image = randomBytes(30_000);
let origin: OriginRecords;
let gateway: FakeGateway;

beforeAll(async () => {
  const fleet = await FleetRepository.create();
  origin = new OriginRecords(fleet);
  gateway = await FakeGateway.open(origin);
  fleet.addRelease({ counter: 1, image });
  fleet.addRollout(1);
  await fleet.publishAll();
});
afterAll(async () => {
  await gateway.close();
});

interface Story {
  hooks: { health?: string };
  states: string[];
  booted: 'A' | 'B';
}

const begun = ['idle', 'downloading', 'verifying', 'installing', 'rebooting', 'confirming'];
const completed: Story = { hooks: {}, states: [...begun, 'completed'], booted: 'B' };
const fallenBack: Story = {
  hooks: { health: 'exit 1' },
  states: [...begun, 'failed', 'rolledBack'],
  booted: 'A',
};

/** @param failpoint where the first run loses power. The device then starts again */
async function update({ hooks }: Story, failpoint: Failpoint) {
  const device = await TestDevice.create([gateway.url], origin.fleet.rootBytes);
  const settings = { hooks };
  gateway.requests.length = 0;
  const isCut = await untilPowerCut(async () => {
    await device.open({ failpoint, settings });
    await device.cycle();
  });
  if (isCut) {
    await device.close({ isCut: true });
    await device.open({ settings });
  }
  await device.cycle();
  await device.cycle();
  const boot = await device.parts.boot.read();
  const chunks = gateway.requests.filter(line => line.includes('/chunks/'));
  const found = {
    isCut,
    isRight: (await device.slot('B')).equals(image),
    booted: boot.booted,
    next: boot.next,
    states: origin
      .reportsOf(device.id)
      .filter(({ reason }) => reason?.code !== 'powerLoss')
      .map(({ state }) => state),
    barred: device.parts.stateFile.current.barred.map(({ counter }) => counter),
    pending: device.parts.outbox.pendingCount,
  };
  await device.remove();
  return { found, repeated: chunks.length - new Set(chunks).size };
}

/** The failpoints in their order, as `NAME#N`. */
async function failpointsOf(story: Story): Promise<string[]> {
  const reached = new Map<string, number>();
  const all: string[] = [];
  const { found } = await update(story, name => {
    const times = (reached.get(name) ?? 0) + 1;
    reached.set(name, times);
    all.push(`${name}#${times}`);
  });
  expect(found).toMatchObject({ isCut: false, states: story.states });
  return all;
}

const isEvery = process.env.SITECAST_TEST_EVERY_POINT === '1';

async function expectToEndAfterCutsAt(places: readonly string[], story: Story): Promise<void> {
  const { states, booted } = story;
  const barred = booted === 'A' ? [1] : [];
  const expected = { isCut: true, isRight: true, booted, next: booted, states, barred, pending: 0 };
  for (const where of places) {
    const { found, repeated } = await update(story, powerCutAt(where));
    expect({ where, ...found }).toEqual({ where, ...expected });
    // Up to `concurrency` chunks were on their way when the power failed.
    expect(repeated).toBeLessThanOrEqual(4);
  }
  expect(origin.conflicts).toEqual([]);
}

/** Each name at its first place, and some more. SITECAST_TEST_EVERY_POINT=1 tests all places, which takes two minutes. */
it('continues after a power cut at each failpoint of an update, to the same slot, fetching nothing twice, reporting all once', async () => {
  const all = await failpointsOf(completed);
  expect(new Set(all.map(where => where.replace(/#.*/, ''))).size).toBe(26);
  // 106, or less where two changes of the state are written as one.
  expect(all.length).toBeGreaterThan(95);
  const places = all.filter((where, at) => isEvery || where.endsWith('#1') || at % 12 === 0);
  await expectToEndAfterCutsAt(places, completed);
});

/** The same from the failpoint on at which the slot is given up. */
it('falls back after a power cut at each failpoint of a fall-back, barring the release, reporting all once', async () => {
  const all = await failpointsOf(fallenBack);
  const after = all.slice(all.indexOf('reboot after#1'));
  expect(after.length).toBeGreaterThan(30);
  const places = after.filter((where, at) => isEvery || /^(set next|mark bad)/.test(where) || at % 8 === 0);
  await expectToEndAfterCutsAt(places, fallenBack);
});

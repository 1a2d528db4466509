import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { TestDevice } from '../testing/device.ts';
import { TestFleet } from '../testing/fleet.ts';
import { FakeOrigin, FakeGateway } from '../testing/gateway.ts';

let origin: FakeOrigin;
let site: FakeGateway;
let other: FakeGateway;
let device: TestDevice;

beforeEach(async () => {
  const fleet = await TestFleet.create();
  origin = new FakeOrigin(fleet);
  site = await FakeGateway.open(origin);
  other = await FakeGateway.open(origin);
  device = await TestDevice.create([site.url, other.url], fleet.rootBytes);
  fleet.addRelease({ counter: 1, image: randomBytes(10_000) });
  fleet.rollOut(1);
  await fleet.publish();
  await device.open();
});
afterEach(async () => {
  await device.remove();
  await site.close();
  await other.close();
});

it.each(['pending', 'forged'] as const)(
  'lets a newcomer in through the next gateway where the first one says that it is %s',
  async ofDevices => {
    Object.assign(site, { ofDevices });
    expect(await device.cycle()).toMatchObject({ state: 'completed' });
    expect(device.parts.status.current.enrolment).toBe('enrolled');
  },
);

it('keeps a newcomer waiting where one gateway says so and the other is away, and asks each once a cycle', async () => {
  origin.acceptsNewcomers = false;
  const asked = (at: FakeGateway) =>
    at.requests.filter(path => path.startsWith('/site/v1/enrolments')).length;
  expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'acceptance' });
  expect([asked(site), asked(other)]).toEqual([1, 1]);
  other.mischief = () => 'drop';
  expect(await device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'acceptance' });
  expect(device.parts.status.current.enrolment).toBe('pending');
});

it('takes a newer assignment from the next gateway where the first one does not know the device', async () => {
  await device.cycle();
  origin.assignments.set(device.id, await origin.fleet.assign(device.id, { serial: 2 }));
  site.ofDevices = 'pending';
  await device.cycle();
  expect(device.parts.stateFile.current.assignment).toEqual(origin.assignments.get(device.id));
});

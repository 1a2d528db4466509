import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { AgentHarness } from '../testing/harness.ts';
import type { FakeGateway } from '../testing/fake-gateway.ts';

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open({ images: [randomBytes(10_000)], hasOther: true });
  await harness.device.open();
});
afterEach(async () => {
  await harness.close();
});

it.each(['pending', 'forged'] as const)(
  'enrols a new device through the next gateway where the first one says that it is %s',
  async ofDevices => {
    Object.assign(harness.gateway, { ofDevices });
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.status.current.enrolment).toBe('enrolled');
  },
);

it('keeps a new device waiting where one gateway says so and the other is unreachable, and asks each once a cycle', async () => {
  harness.origin.acceptsEnrolments = 'pending';
  const asked = (at: FakeGateway) => at.requests.filter(line => line.includes('/site/v1/enrolments')).length;
  expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'acceptance' });
  expect([asked(harness.gateway), asked(harness.other)]).toEqual([1, 1]);
  harness.other.misbehave = () => 'drop';
  expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'acceptance' });
  expect(harness.device.parts.status.current.enrolment).toBe('pending');
});

it('takes a newer assignment from the next gateway where the first one does not know the device', async () => {
  await harness.device.cycle();
  await harness.origin.assign({ id: harness.device.id, serial: 2 });
  harness.gateway.ofDevices = 'pending';
  await harness.device.cycle();
  expect(harness.device.parts.stateFile.current.assignment).toEqual(
    await harness.origin.assignmentOf(harness.device.id),
  );
});

import { signRequest } from '@sitecast/shared/http-signature';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import {
  removeTemporaryDirectories,
  TestDevice,
  type TestGateway,
  GatewayHarness,
  until,
} from '../testing/harness.ts';

const harness = new GatewayHarness();
let origin: FakeOrigin;
let gateway: TestGateway;
beforeAll(async () => {
  origin = await harness.origin();
  await origin.publishRelease('camera', 1, Buffer.alloc(20_000, 'a release '));
  gateway = await harness.gateway(origin);
  await gateway.untilEnrolled();
});
afterAll(async () => {
  await harness.closeAll();
  await removeTemporaryDirectories();
});

const heardCount = (): Promise<number> => gateway.metric('sitecast_heard_devices');

async function newDevice(): Promise<TestDevice> {
  const device = new TestDevice();
  await device.post(`${gateway.url}/site/v1/enrolments`, { envelope: await device.enrolment() });
  return device;
}

/** A poll that is answered at once. */
async function poll(
  device: TestDevice,
  by = device,
  nowMs = Date.now(),
  receiver: string | undefined = gateway.id,
): Promise<number> {
  const url = `${gateway.url}/metadata/timestamp.json`;
  const body = new Uint8Array(0);
  const headers = await signRequest({ method: 'GET', url, body, receiver }, by.identity, nowMs);
  return (
    await gateway.get('metadata/timestamp.json', {
      ...headers,
      'signature-input': headers['signature-input']?.replace(by.id, device.id) ?? '',
    })
  ).status;
}

it('counts a device with a signed poll as heard, and serves all others as well', async () => {
  const [device, stranger] = [await newDevice(), new TestDevice()];
  const before = await heardCount();
  expect((await gateway.get('metadata/timestamp.json')).status).toBe(200);
  expect(await poll(stranger)).toBe(200);
  expect(await poll(device, stranger)).toBe(200);
  expect(await poll(device, device, Date.now() - 3_600_000)).toBe(200);
  // The signature was made for another gateway.
  expect(await poll(device, device, Date.now(), stranger.id)).toBe(200);
  expect(await heardCount()).toBe(before);
  expect(await poll(device)).toBe(200);
  expect(await heardCount()).toBe(before + 1);
});

it('counts a device with a verified request as heard, but no stranger', async () => {
  const device = await newDevice();
  const before = await heardCount();
  await new TestDevice().post(`${gateway.url}/site/v1/leases`, {});
  expect(await heardCount()).toBe(before);
  await device.post(`${gateway.url}/site/v1/progress`, { progress: [] });
  expect(await heardCount()).toBe(before + 1);
});

it('reports to the origin once it is enrolled', async () => {
  await until(() => (origin.presence ?? []).length > 0, 'the gateway to speak');
  expect(origin.presence?.[0]).toMatchObject({ seq: 1, isWhole: false, turns: [] });
});

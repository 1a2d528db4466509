import { afterAll, beforeAll, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { assignmentIn, type TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { isRenewal } from './validity.ts';

const DAY_MS = 24 * 3_600_000;

let freeBytes = Number.POSITIVE_INFINITY;
let harness: FleetHarness;
beforeAll(async () => {
  const room = { freeBytes: async () => freeBytes, reserveBytes: 1000, path: '/data' };
  harness = await FleetHarness.open(path => ({ ...testDisk(path), room }));
});
afterAll(() => harness.close());

/** Days in which the origin signs timestamps: it signs nothing by a clock that runs ahead of them. */
async function days(count: number): Promise<void> {
  for (let day = 0; day < count; day += 1) {
    harness.clock.passDays(1);
    await harness.origin.repository.renew();
  }
}

const registered = ({ id }: TestMember) => harness.origin.fleet.registry.require('device', id);

async function shown(device: TestMember) {
  const answer = await device.get(`/site/v1/assignments/${device.id}`);
  const { serial, issuedAt, expiresAt = '' } = assignmentIn(answer, harness.signers);
  return { serial, issuedAt, expiresMs: Date.parse(expiresAt) };
}

const auditEntries = async (): Promise<number> => (await harness.origin.audit.find(0, 1000)).entries.length;

it('is renewed when it is asked for after 30 to 40 days, 50 days before it ends at least, and durably', async () => {
  const device = await harness.device();
  const first = await shown(device);
  const holdsMs = first.expiresMs - harness.clock.nowMs;
  expect(holdsMs).toBeGreaterThan(90 * DAY_MS - 60_000);
  expect(holdsMs).toBeLessThan(100 * DAY_MS);
  await days(29);
  expect(await shown(device)).toEqual(first);
  await days(12);
  const entries = await auditEntries();
  const answers = await Promise.all(Array.from({ length: 5 }, () => shown(device)));
  const [second] = answers;
  expect(second).toMatchObject({ serial: 2, issuedAt: new Date(harness.clock.nowMs).toISOString() });
  expect(second?.expiresMs).toBe(first.expiresMs + 41 * DAY_MS);
  for (const answer of answers) expect(answer).toEqual(second);
  // Nobody has decided anything, and where devices and gateways are hasn't changed.
  expect(await auditEntries()).toBe(entries);
  await harness.restart();
  expect(await shown(device)).toEqual(second);
  await days(41);
  const before = harness.origin.fleet.registry.version;
  expect(await shown(device)).toMatchObject({ serial: 3 });
  expect(harness.origin.fleet.registry.version).toBe(before);
});

it('of a member whom an earlier version let in is renewed when it is next asked for', async () => {
  const device = await harness.device();
  const { expiresAt: _expiresAt, ...before } = registered(device);
  await harness.store.commit([{ table: 'member', key: device.id, value: before }]);
  await harness.restart();
  expect(registered(device)).toEqual(before);
  const renewed = await shown(device);
  expect(renewed.serial).toBe(2);
  expect(renewed.expiresMs).toBeGreaterThan(harness.clock.nowMs + 89 * DAY_MS);
});

it('begins anew with a change, and is not renewed once its holder is revoked', async () => {
  const device = await harness.device();
  const first = await shown(device);
  await days(20);
  await harness.call('PATCH', `/api/v1/devices/${device.id}`, { tags: { ring: 'early' } });
  expect(await shown(device)).toMatchObject({ serial: 2, expiresMs: first.expiresMs + 20 * DAY_MS });
  await harness.call('POST', `/api/v1/devices/${device.id}/revoke`);
  await days(60);
  expect(await shown(device)).toMatchObject({ serial: 3 });
});

it('is given as it is while the disk is full, or where too many are due at once', async () => {
  const devices: TestMember[] = [];
  for (let count = 0; count < 102; count += 1) devices.push(await harness.device());
  await days(41);
  freeBytes = 500;
  expect(await shown(devices[0] ?? harness.member())).toMatchObject({ serial: 1 });
  freeBytes = Number.POSITIVE_INFINITY;
  const serials: number[] = [];
  for (const device of devices) serials.push((await shown(device)).serial);
  // One of the hundred was taken when the disk was full.
  expect(serials.filter(serial => serial === 2)).toHaveLength(99);
  harness.clock.nowMs += 1000;
  for (const device of devices) expect((await shown(device)).serial).toBe(2);
});

it('is not renewed by a clock that is ahead', async () => {
  const device = await harness.device();
  const before = registered(device);
  harness.clock.passDays(41);
  const { status } = await device.get(`/site/v1/assignments/${device.id}`);
  expect(status).toBe(503);
  expect(registered(device)).toEqual(before);
  harness.clock.passDays(-41);
  expect(await shown(device)).toMatchObject({ serial: 1 });
});

it('tells a renewal from a change', async () => {
  const member = registered(await harness.device());
  const renewal = { ...member, serial: 2, changedAt: '2031-01-01T00:00:00.000Z' };
  const { expiresAt: _expiresAt, ...endless } = member;
  expect(isRenewal(member, renewal)).toBe(true);
  expect(isRenewal(endless, renewal)).toBe(true);
  expect(isRenewal(member, { ...renewal, site: 'elsewhere' })).toBe(false);
  expect(isRenewal(member, { ...renewal, revokedAt: renewal.changedAt })).toBe(false);
});

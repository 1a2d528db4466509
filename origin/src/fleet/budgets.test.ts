import { REPORT_RATE, type Report } from '@sitecast/shared/fleet';
import { sealUnchecked } from '@sitecast/shared/fleet/testing';
import type { Envelope } from '@sitecast/shared/identity';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { acknowledgementsIn, type Answer, type TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MAX_KEPT_BYTES } from './status.ts';

// What one device may take of the origin, and that it affects no other device.

const TOTAL_BYTES = 1_500_000;

let harness: FleetHarness;
beforeAll(async () => {
  const disks = (path: string) => ({
    ...testDisk(path),
    maxReportBytes: TOTAL_BYTES,
  });
  harness = await FleetHarness.open(disks);
});
afterAll(() => harness.close());

const OVER = 'SITECAST_REPORTS_OVER_BUDGET';
const ends = (answer: Answer) =>
  acknowledgementsIn(answer, harness.signers).map(({ epoch, seq }) => ({ epoch, seq }));
const show = (device: TestMember) => harness.call('GET', `/api/v1/devices/${device.id}`);

/** Reports of about 54 KB each, as agents of the first release may sign them. */
async function bigs(device: TestMember, count: number, said: Partial<Report> = {}): Promise<Envelope[]> {
  const found: Envelope[] = [];
  for (let at = 0; at < count; at += 1)
    found.push(await device.next({ ...said, more: 'x'.repeat(40_000) }, sealUnchecked));
  return found;
}

/** The bytes that a report takes in the database. */
const bytesOf = (key: string, value: unknown): number =>
  key.length + Buffer.byteLength(JSON.stringify(value));

/** What the database holds of a device. */
async function stored(device: TestMember): Promise<{ reports: number; bytes: number }> {
  const found = { reports: 0, bytes: 0 };
  for await (const [key, value] of harness.store.entries('report', { prefix: `${device.id}!` })) {
    found.reports += 1;
    found.bytes += bytesOf(key, value);
  }
  return found;
}

/** Sends at most so many per request, and waits an hour where the origin asks for it. */
async function sendAll(device: TestMember, reports: readonly Envelope[], by?: TestMember): Promise<void> {
  let left = [...reports];
  for (let hours = 0; left.length > 0; hours += 1) {
    const answer = await device.sendReports(left.slice(0, 12), by);
    const later = Array.isArray(answer.body.rejected) ? answer.body.rejected.length : 0;
    left = answer.status === 429 ? left : left.slice(Math.min(12, left.length) - later);
    if (later > 0 || answer.status === 429) harness.clock.passHours(1);
    if (hours > 100) throw new Error('it never ends');
  }
}

it("a flood is deferred beyond its device's budget; other devices' reports are not, and no chain looks odd", async () => {
  const [device, other, gateway] = [await harness.device(), await harness.device(), await harness.gateway()];
  const reports = await bigs(device, 14);
  const fitting = Math.floor((2 * REPORT_RATE.burst) / Buffer.byteLength(JSON.stringify(reports[0])));
  const answer = await gateway.sendReports([...reports, await other.next()]);
  expect(answer.status).toBe(200);
  expect(ends(answer)).toEqual([
    { epoch: device.epoch, seq: fitting },
    { epoch: other.epoch, seq: 1 },
  ]);
  const later = Array.from({ length: 14 - fitting }, (_, at) => ({
    index: fitting + at,
    id: device.id,
    epoch: device.epoch,
    seq: fitting + at + 1,
    code: OVER,
    retryAfterS: expect.any(Number),
  }));
  expect(answer.body.rejected).toEqual(later);
  // Only the deferred report is missing in the chain behind it.
  const behind = await gateway.sendReports([await device.next()]);
  expect(behind.body.rejected).toMatchObject([{ code: OVER, seq: 15 }]);
  // Stored reports cost nothing. A device that connects itself is told when to come again.
  expect((await device.sendReports(reports.slice(0, 3))).body.rejected).toEqual([]);
  const refused = await device.sendReports(reports.slice(fitting));
  expect(refused).toMatchObject({ status: 429, body: { code: OVER } });
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(60);
  expect(await show(device)).toMatchObject({ anomalies: [], chains: [{ seq: fitting }] });
  harness.clock.passHours(1);
  expect(ends(await device.sendReports(reports.slice(fitting)))).toMatchObject([{ seq: fitting + 1 }]);
  const metrics = await (await harness.ask('/metrics')).text();
  expect(metrics).toMatch(/sitecast_reports_over_budget_total \d+/);
});

it('the oldest reports make room for newer ones, in bytes; rollouts and the chain lose nothing', async () => {
  const device = await harness.device();
  const rollout = { id: String((await harness.startRollout()).id), attempt: 1 };
  const release = { counter: 1, version: '1.0.0' };
  await device.report({ state: 'failed', rollout, release, reason: { code: 'healthFailed', message: 'no' } });
  const { epoch } = device;
  await sendAll(device, await bigs(device, 5));
  device.beginChain();
  await sendAll(device, await bigs(device, 8));
  const kept = await stored(device);
  expect(kept.bytes).toBeLessThanOrEqual(MAX_KEPT_BYTES);
  expect(kept.reports).toBeGreaterThan(2);
  expect(await show(device)).toMatchObject({
    kept: { ...kept, dropped: 14 - kept.reports },
    chains: [
      { epoch, seq: 6 },
      { epoch: device.epoch, seq: 8 },
    ],
    reports: { length: kept.reports },
  });
  expect(await harness.call('GET', `/api/v1/rollouts/${rollout.id}`)).toMatchObject({
    counts: { failed: 1 },
  });
  // The chain continues, and its acknowledgement says so, also after a restart.
  await harness.restart();
  expect(ends(await device.report())).toEqual([{ epoch: device.epoch, seq: 9 }]);
  expect(await stored(device)).toMatchObject({ reports: kept.reports + 1 });
  // These make the oldest of nine chains be dropped.
  for (let at = 0; at < 7; at += 1) {
    device.beginChain();
    await device.report();
  }
  const { kept: counted } = await show(device);
  expect(counted).toMatchObject(await stored(device));
});

it('what a damaged database has lost is noticed where it is trimmed, and costs no other report', async () => {
  const device = await harness.device();
  await sendAll(device, await bigs(device, 4));
  const lost: string[] = [];
  for await (const [key] of harness.store.entries('report', { prefix: `${device.id}!` })) lost.push(key);
  await harness.store.commit(lost.slice(0, 3).map(key => ({ table: 'report', key, value: undefined })));
  await sendAll(device, await bigs(device, 1));
  expect(await show(device)).toMatchObject({ kept: { ...(await stored(device)), reports: 2, dropped: 0 } });
});

it('reports that an earlier version kept are counted, and trimmed before the first report and with it', async () => {
  const [device, silent] = [await harness.device(), await harness.device()];
  for (const one of [device, silent]) {
    await one.report();
    const [legacy] = await bigs(one, 1);
    const { kept: _, ...status } = harness.origin.fleet.registry.status(one.id) ?? {};
    const value = { envelope: legacy, sha256: 'f'.repeat(64), receivedAt: '2026-01-01T00:00:00.000Z' };
    const writes = Array.from({ length: 20 }, (_, at) => ({
      table: 'report' as const,
      key: `${one.id}!${one.epoch}!${String(at + 2).padStart(16, '0')}`,
      value,
    }));
    await harness.store.commit([
      ...writes,
      {
        table: 'status',
        key: one.id,
        value: {
          ...status,
          chains: [
            { ...harness.origin.fleet.registry.status(one.id)?.chains[0], seq: 21, head: 'f'.repeat(64) },
          ],
        },
      },
    ]);
  }
  await harness.restart();
  expect((await stored(device)).bytes).toBeGreaterThan(10 ** 6);
  device.beginChain();
  await device.report();
  expect((await stored(device)).bytes).toBeLessThanOrEqual(MAX_KEPT_BYTES);
  await harness.origin.fleet.intake.tidy();
  expect((await stored(silent)).bytes).toBeLessThanOrEqual(MAX_KEPT_BYTES);
  expect(await show(silent)).toMatchObject({ kept: await stored(silent) });
});

it('all devices together stay within a total: the one with the most loses its oldest, and one with little loses nothing', async () => {
  const small = await harness.device();
  await small.sendReports([await small.next(), await small.next()]);
  const many = await Promise.all(Array.from({ length: 8 }, () => harness.device()));
  for (const device of many) await sendAll(device, await bigs(device, 4));
  const total = async () => {
    const { reports } = await harness.call('GET', '/api/v1/repository');
    return Number(Object(reports).keptBytes);
  };
  expect(await total()).toBeGreaterThan(TOTAL_BYTES);
  await harness.origin.fleet.intake.tidy();
  expect(await total()).toBeLessThanOrEqual(TOTAL_BYTES);
  expect(await stored(small)).toMatchObject({ reports: 2 });
  for (const device of many) expect((await stored(device)).reports).toBeGreaterThan(0);
  let bytes = 0;
  for await (const [key, value] of harness.store.entries('report')) bytes += bytesOf(key, value);
  expect(bytes).toBe(await total());
});

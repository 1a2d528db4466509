import { fittingEvent, type Report } from '@sitecast/shared/fleet';
import { sealUnchecked } from '@sitecast/shared/fleet/testing';
import type { Envelope } from '@sitecast/shared/identity';
import { array, assert, asyncProperty, integer } from 'fast-check';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import {
  removeTemporaryDirectories,
  TestDevice,
  type TestGateway,
  GatewayHarness,
  until,
} from './testing/harness.ts';

// One bad report delays no other device's reports.

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

async function start(): Promise<{ origin: FakeOrigin; gateway: TestGateway }> {
  const origin = await harness.origin();
  return { origin, gateway: await harness.gateway(origin) };
}

/** A device that the gateway knows. */
async function assigned(origin: FakeOrigin, gateway: TestGateway): Promise<TestDevice> {
  const device = new TestDevice();
  await origin.records.assign({ id: device.id });
  expect((await gateway.get(`site/v1/assignments/${device.id}`)).status).toBe(200);
  return device;
}

const send = (device: TestDevice, { url }: TestGateway, reports: readonly unknown[]) =>
  device.post(`${url}/site/v1/reports`, { reports });
const saying = (message: string) => ({ reason: { code: 'healthFailed', message } });
const isSaying =
  (...messages: string[]) =>
  ({ reason }: Report) =>
    messages.includes(reason?.message ?? '');
const arrived = (origin: FakeOrigin) =>
  origin.records.reports.map(({ reason }) => reason?.message).filter(message => message !== undefined);
const waiting = (gateway: TestGateway) => gateway.metric('sitecast_outbox_reports');
const putAside = (gateway: TestGateway) => gateway.metric('sitecast_outbox_rejected');

it('accepts the good reports of a request whatever the others are, and names those that it refuses', async () => {
  const { origin, gateway } = await start();
  const device = await assigned(origin, gateway);
  const altered = { ...(await device.report()), signatures: (await device.report()).signatures };
  const answer = await send(device, gateway, [
    7,
    await device.report(saying('one')),
    altered,
    await new TestDevice().report(),
    { payload: 1 },
    await device.report(saying('two')),
    await device.report({ ...saying('x'.repeat(2000)) }, sealUnchecked),
  ]);
  expect(answer).toMatchObject({
    status: 202,
    json: {
      rejected: [
        { index: 0, code: 'SITECAST_DOCUMENT_MALFORMED' },
        { index: 2, code: 'SITECAST_DOCUMENT_UNTRUSTED' },
        { index: 3, code: 'SITECAST_NOT_YOURS' },
        { index: 4, code: 'SITECAST_DOCUMENT_MALFORMED' },
        { index: 6, code: 'SITECAST_DOCUMENT_MALFORMED' },
      ],
    },
  });
  await until(() => origin.records.reports.length === 2, 'the reports');
  expect(arrived(origin)).toEqual(['one', 'two']);
});

it('accepts a report that an agent of the first release has cut inside a character', async () => {
  const { origin, gateway } = await start();
  const device = new TestDevice();
  const unlucky = `${'😀'.repeat(200)}x`.slice(-400);
  const reports = [
    await device.report(saying('one')),
    await device.report(saying(unlucky), sealUnchecked),
    await device.report({ at: '+010000-01-01T00:00:00.000Z', ...saying('three') }, sealUnchecked),
  ];
  expect(await send(device, gateway, reports)).toEqual({ status: 202, json: {} });
  await until(async () => (await waiting(gateway)) === 0, 'the acknowledgement');
  expect(arrived(origin)).toEqual(['one', `\ufffd${unlucky.slice(1)}`, 'three']);
});

it('accepts a report with any text in it', async () => {
  const { origin, gateway } = await start();
  const device = await assigned(origin, gateway);
  const anyText = array(integer({ min: 0, max: 0xffff }), { maxLength: 1100 });
  await assert(
    asyncProperty(anyText, async units => {
      const text = String.fromCharCode(...units);
      const event = { at: '2030-01-01T00:00:00Z', timestampVersion: 1, state: 'failed' as const };
      const fitting = fittingEvent({ ...event, ...saying(text), inventory: { [text]: text } });
      expect((await send(device, gateway, [await device.report(fitting)])).status).toBe(202);
    }),
    { numRuns: 15 },
  );
});

it('delays no other report for one that makes the origin refuse the request, and informs its device', async () => {
  const { origin, gateway } = await start();
  const [one, other] = [await assigned(origin, gateway), await assigned(origin, gateway)];
  origin.refusesWhole = report => (isSaying('two')(report) ? 400 : undefined);
  await send(one, gateway, [
    await one.report(saying('one')),
    await one.report(saying('two')),
    await one.report(saying('three')),
  ]);
  await send(other, gateway, [await other.report(saying('four')), await other.report(saying('five'))]);
  await until(async () => (await putAside(gateway)) === 1, 'the refusal');
  await until(() => origin.records.reports.length === 4, 'the others');
  expect(arrived(origin).sort()).toEqual(['five', 'four', 'one', 'three']);
  const { json } = await send(one, gateway, [await one.report()]);
  expect(json.rejected).toEqual([
    { epoch: one.epoch, seq: 2, digest: expect.any(String), code: 'SITECAST_REQUEST_INVALID' },
  ]);
  expect((await send(other, gateway, [await other.report()])).json).not.toHaveProperty('rejected');
  await gateway.close();
  const again = await harness.gateway(origin, { data: gateway.settings.data });
  expect((await send(one, again, [await one.report()])).json).toHaveProperty('rejected');
});

it('forwards reports after more consecutive refusals than its limit allows at once', async () => {
  const { origin, gateway } = await start();
  const device = await assigned(origin, gateway);
  origin.refusesWhole = report => (isSaying('bad')(report) ? 400 : undefined);
  const reports: Envelope[] = [];
  for (let at = 0; at < 12; at += 1) reports.push(await device.report(saying('bad')));
  await send(device, gateway, [...reports, await device.report(saying('good'))]);
  await until(() => origin.records.reports.length === 1, 'the one behind them');
  expect(arrived(origin)).toEqual(['good']);
  await until(async () => (await putAside(gateway)) === 12, 'the refusals');
});

it('sets aside a report that the origin cannot read, and names by its position only', async () => {
  const { origin, gateway } = await start();
  const device = await assigned(origin, gateway);
  origin.cannotRead = isSaying('two');
  await send(device, gateway, [await device.report(saying('one')), await device.report(saying('two'))]);
  await until(async () => (await putAside(gateway)) === 1, 'the refusal');
  expect(await waiting(gateway)).toBe(0);
  expect(arrived(origin)).toEqual(['one']);
});

it('skips a report at which the origin fails, and keeps it', async () => {
  const { origin, gateway } = await start();
  const [one, other] = [await assigned(origin, gateway), await assigned(origin, gateway)];
  origin.refusesWhole = report => (isSaying('two')(report) ? 500 : undefined);
  await send(one, gateway, [await one.report(saying('one')), await one.report(saying('two'))]);
  await send(other, gateway, [await other.report(saying('three'))]);
  await until(() => origin.records.reports.length === 2, 'the others');
  expect(arrived(origin).sort()).toEqual(['one', 'three']);
  await until(async () => (await waiting(gateway)) === 1, 'the acknowledgements');
  expect(await putAside(gateway)).toBe(0);
});

it('keeps all reports where everything is refused, because that is no verdict on any of them', async () => {
  const { origin, gateway } = await start();
  const device = await assigned(origin, gateway);
  origin.refusesWhole = () => 400;
  const reports: Envelope[] = [];
  for (let at = 0; at < 30; at += 1) reports.push(await device.report());
  await send(device, gateway, reports);
  await until(() => origin.count('POST /site/v1/reports') > 20, 'some tries');
  expect([await waiting(gateway), await putAside(gateway)]).toEqual([30, 0]);
  origin.refusesWhole = () => undefined;
  await gateway.close();
  const again = await harness.gateway(origin, { data: gateway.settings.data });
  await until(async () => (await waiting(again)) === 0, 'the acknowledgements');
  expect(origin.records.reports.length).toBe(30);
});

describe('a device that sends more than its budget', () => {
  const BIG_BYTES = 40_000;
  const big = (device: TestDevice) =>
    device.report({ ...saying('flood'), more: 'x'.repeat(BIG_BYTES) }, sealUnchecked);
  const bigs = (device: TestDevice, count: number) =>
    Promise.all(Array.from({ length: count }, () => big(device)));

  it('is told which reports to send later, and when; no other device is slowed, and it continues at that time', async () => {
    let offsetMs = 0;
    const origin = await harness.origin();
    const gateway = await harness.gateway(origin, {}, { now: () => Date.now() + offsetMs });
    const [device, other] = [await assigned(origin, gateway), await assigned(origin, gateway)];
    const reports = await bigs(device, 12);
    const later = (index: number) => ({
      index,
      code: 'SITECAST_REPORTS_OVER_BUDGET',
      retryAfterS: expect.any(Number),
    });
    // Released agents send up to 900 KB in a request. What fits of it is accepted.
    const answer = await send(device, gateway, reports);
    expect(answer).toMatchObject({ status: 202, json: { rejected: [4, 5, 6, 7, 8, 9, 10, 11].map(later) } });
    const refused = await send(device, gateway, reports.slice(4));
    expect(refused).toMatchObject({
      status: 429,
      json: { code: 'SITECAST_REPORTS_OVER_BUDGET', data: { retryAfterS: expect.any(Number) } },
    });
    await send(other, gateway, [await other.report(saying('other'))]);
    await until(() => arrived(origin).includes('other'), 'the report of the other');
    await until(() => origin.records.reports.length === 5, 'what was taken');
    // Reports that are stored already cost nothing.
    expect((await send(device, gateway, reports.slice(0, 4))).json).not.toHaveProperty('rejected');
    expect(await gateway.metric('sitecast_wan_sent_bytes_total')).toBeLessThan(6 * 60_000);
    await until(async () => (await waiting(gateway)) === 0, 'the acknowledgements');
    offsetMs += 3_600_000;
    const next = await device.post(
      `${gateway.url}/site/v1/reports`,
      { reports: reports.slice(4) },
      Date.now() + offsetMs,
    );
    expect(next.json.rejected).toMatchObject([2, 3, 4, 5, 6, 7].map(later));
    // The origin's clock isn't that far yet, so they wait.
    expect(await waiting(gateway)).toBe(2);
    expect(await gateway.metric('sitecast_reports_over_budget_total')).toBe(8 + 8 + 6);
  });

  it('is held back alone where the origin demands it, and none of its reports is set aside', async () => {
    const { origin, gateway } = await start();
    const [device, other] = [await assigned(origin, gateway), await assigned(origin, gateway)];
    origin.putsOff = ({ id, seq }) => (id === device.id && seq > 1 ? 2 : undefined);
    await send(device, gateway, [await device.report(), await device.report(), await device.report()]);
    await until(() => origin.records.reports.length === 1, 'the first');
    const before = origin.count('POST /site/v1/reports');
    await send(device, gateway, [await device.report()]);
    await send(other, gateway, [await other.report(saying('other'))]);
    await until(() => arrived(origin).includes('other'), 'the report of the other');
    expect(origin.count('POST /site/v1/reports') - before).toBeLessThan(3);
    origin.putsOff = () => undefined;
    await until(() => origin.records.reports.length === 5, 'the rest');
    expect(origin.records.reports.filter(({ id }) => id === device.id).map(({ seq }) => seq)).toEqual([
      1, 2, 3, 4,
    ]);
    expect(await putAside(gateway)).toBe(0);
  });
});

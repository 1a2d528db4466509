import { randomBytes } from 'node:crypto';
import type { Report } from '@sitecast/shared/fleet';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type DeviceChanges, TestDevice } from '../testing/device.ts';
import { FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { FakeGateway } from '../testing/fake-gateway.ts';

let origin: OriginRecords;
let site: FakeGateway;
let other: FakeGateway;
let device: TestDevice;

beforeEach(async () => {
  const fleet = await FleetRepository.create();
  fleet.addRelease({ counter: 1, image: randomBytes(10_000) });
  fleet.addRollout(1);
  await fleet.publishAll();
  origin = new OriginRecords(fleet);
  site = await FakeGateway.open(origin);
  other = await FakeGateway.open(origin);
});
afterEach(async () => {
  await device.remove();
  await site.close();
  await other.close();
});

/** Opens a device that has been updated and has delivered all its reports. */
async function start(...sites: FakeGateway[]): Promise<void> {
  device = await TestDevice.create(
    sites.map(({ url }) => url),
    origin.fleet.rootBytes,
  );
  expect(await device.cycle()).toMatchObject({ state: 'completed' });
  expect(device.parts.outbox.pendingCount).toBe(0);
}

async function tell(...messages: string[]): Promise<void> {
  for (const [at, message] of messages.entries()) {
    const rollout = { id: '0123456789abcdef', attempt: at + 1 };
    await device.parts.reporter.report('failed', { rollout, reason: { code: 'healthFailed', message } });
  }
}
const deliver = () => device.agent.deliver(new AbortController().signal);
const refusing =
  (...messages: string[]) =>
  ({ reason }: Report) =>
    messages.includes(reason?.message ?? '') ? 'DOCUMENT_MALFORMED' : undefined;
const epochs = () => new Set(origin.reportsOf(device.id).map(({ epoch }) => epoch));
/** Attempt and message of the reported failures in the newest chain. */
function reported(): string[] {
  const newest = origin.reportsOf(device.id).filter(({ epoch }) => epoch === device.parts.outbox.epoch);
  return newest
    .filter(({ state, rollout }) => state === 'failed' && rollout)
    .map(({ rollout, reason }) => `${rollout?.attempt} ${reason?.message}`);
}
const posts = () => site.count('POST /site/v1/reports');

it.each(['whole', 'each'] as const)(
  'continues past a report that is refused for its content, and sends it again without its text (%s)',
  async refuses => {
    await start(site);
    Object.assign(site, { refuses, judge: refusing('two', 'four') });
    await tell('one', 'two', 'three', 'four', 'five');
    await deliver();
    await deliver();
    const leftOut = 'what was told here is left out: it was refused with SITECAST_DOCUMENT_MALFORMED';
    expect(reported()).toEqual(['1 one', `2 ${leftOut}`, '3 three', `4 ${leftOut}`, '5 five']);
    expect(device.parts.outbox.pendingCount).toBe(0);
    const [, second] = [...epochs()];
    expect(origin.reportsOf(device.id).find(({ epoch }) => epoch === second)).toMatchObject({
      seq: 1,
      reason: {
        code: 'SITECAST_REPORTS_TOLD_AGAIN',
        message: expect.stringContaining(`${site.url} refuses report`),
      },
    });
    expect(origin.reportsOf(device.id).filter(({ reason }) => reason?.code === 'healthFailed')).toHaveLength(
      // The first report arrived in the first chain already.
      6,
    );
  },
);

it('continues after more consecutive refusals than its limit allows at once', async () => {
  await start(site);
  const bad = Array.from({ length: 9 }, (_, at) => `bad ${at}`);
  Object.assign(site, { refuses: 'whole', judge: refusing(...bad) });
  await tell(...bad, 'good');
  for (let runs = 0; runs < 5; runs += 1) await deliver();
  expect(reported()).toHaveLength(10);
  expect(reported().at(-1)).toBe('10 good');
  expect(epochs().size).toBe(2);
  expect(device.parts.outbox.pendingCount).toBe(0);
});

it('leaves a report unchanged that another gateway accepts', async () => {
  await start(site, other);
  site.judge = refusing('two');
  await tell('one', 'two', 'three');
  await deliver();
  expect(reported()).toEqual(['1 one', '2 two', '3 three']);
  expect(epochs().size).toBe(1);
  expect(device.parts.outbox.pendingCount).toBe(0);
});

it('keeps all reports, in their chain, where a gateway refuses everything, and asks that gateway rarely', async () => {
  await start(site);
  Object.assign(site, { refuses: 'whole', judge: () => 'DOCUMENT_MALFORMED' });
  await tell(...Array.from({ length: 30 }, (_, at) => String(at)));
  const before = posts();
  for (let times = 0; times < 3; times += 1) await deliver();
  expect(posts() - before).toBeLessThan(40);
  expect(device.parts.outbox.pendingCount).toBe(30);
  expect(device.parts.delivery.refusal).toContain('refuses reports: status 400 SITECAST_DOCUMENT_MALFORMED');
  await device.close();
  site.judge = () => undefined;
  await device.open();
  await deliver();
  await deliver();
  expect(reported()).toHaveLength(30);
  expect(epochs().size).toBe(1);
});

it('begins at most one new chain in an hour, however many reports a gateway refuses', async () => {
  await start(site);
  site.judge = ({ reason }) => (/^\d+$/.test(reason?.message ?? '') ? 'DOCUMENT_MALFORMED' : undefined);
  for (let times = 0; times < 3; times += 1) {
    await tell('one', String(times), 'two');
    for (let runs = 0; runs < 3; runs += 1) await deliver();
  }
  expect(epochs().size).toBe(2);
  // Nothing was dropped. The reports wait.
  const waiting = device.parts.outbox.recent().map(({ reason }) => reason?.message);
  expect(waiting).toEqual(expect.arrayContaining(['1', '2']));
  expect(device.parts.delivery.refusal).toContain('refuses report');
});

it('begins a new chain, with every text, where the origin has another report with the same number', async () => {
  await start(site);
  site.judge = () => 'REPORT_GAP';
  await tell('one');
  const [{ seq, payloadSha256 } = { seq: 0, payloadSha256: '' }] = device.parts.outbox.pending();
  const { epoch } = device.parts.outbox;
  const forked = (digest: string) => ({ epoch, seq, digest, code: 'SITECAST_REPORT_FORK' });
  // The other report is another machine's, so no new chain begins.
  site.rejectedEarlier = [forked('0'.repeat(16))];
  await deliver();
  expect(device.parts.outbox.epoch).toBe(epoch);
  expect(device.parts.delivery.refusal).toContain('SITECAST_REPORT_GAP');
  await device.close();
  await device.open();
  site.judge = () => undefined;
  origin.conflicts.length = 0;
  site.rejectedEarlier = [forked(payloadSha256.slice(0, 16))];
  origin.acknowledges = false;
  await deliver();
  origin.acknowledges = true;
  await deliver();
  expect(device.parts.outbox.epoch).not.toBe(epoch);
  expect(reported()).toEqual(['1 one']);
});

it('begins no further chain because of refusals in the first hour after a start, whatever its clock says', async () => {
  await start(site);
  const refuseFork = () => {
    const [{ seq, payloadSha256 } = { seq: 0, payloadSha256: '' }] = device.parts.outbox.pending();
    const digest = payloadSha256.slice(0, 16);
    site.rejectedEarlier = [{ epoch: device.parts.outbox.epoch, seq, digest, code: 'SITECAST_REPORT_FORK' }];
  };
  origin.acknowledges = false;
  const first = device.parts.outbox.epoch;
  await tell('one', 'two');
  refuseFork();
  await deliver();
  const { epoch } = device.parts.outbox;
  expect(epoch).not.toBe(first);
  for (const clockOffsetMs of [0, 7_200_000, -7_200_000]) {
    await device.close();
    Object.assign(site, { clockOffsetMs });
    await device.open({ clockOffsetMs });
    refuseFork();
    await deliver();
    expect(device.parts.outbox.epoch).toBe(epoch);
  }
  const nowMs = performance.now();
  const later = vi.spyOn(performance, 'now').mockReturnValue(nowMs + 3_700_000);
  try {
    await deliver();
    // The report was accepted by the gateway and refused by the origin. It is sent again after 5 minutes.
    await tell('three');
    await deliver();
  } finally {
    later.mockRestore();
  }
  expect(device.parts.outbox.epoch).not.toBe(epoch);
});

it('keeps reports that a gateway defers, sends them in order at that time, and continues an update meanwhile', async () => {
  await start(site);
  const changes: DeviceChanges = { clockOffsetMs: 0 };
  await device.close();
  await device.open(changes);
  let taken = 2;
  site.judge = ({ reason }) =>
    reason?.code === 'healthFailed' && (taken -= 1) < 0 ? 'REPORTS_OVER_BUDGET' : undefined;
  site.retryAfterS = 600;
  await tell('one', 'two', 'three', 'four');
  await deliver();
  const before = posts();
  for (let times = 0; times < 3; times += 1) await deliver();
  // No new request was made. The accepted reports were acknowledged.
  expect(posts()).toBe(before);
  expect(device.parts.outbox.pendingCount).toBe(2);
  expect(device.parts.delivery.refusal).toMatch(/takes the next reports in \d+ s/);
  const { fleet } = origin;
  fleet.addRelease({ counter: 2, image: randomBytes(10_000) });
  fleet.addRollout(2);
  await fleet.publishAll();
  expect(await device.cycle()).toMatchObject({ state: 'completed' });
  expect(posts()).toBe(before);
  site.judge = () => undefined;
  changes.clockOffsetMs = 601_000;
  await deliver();
  await deliver();
  expect(reported()).toEqual(['1 one', '2 two', '3 three', '4 four']);
  expect(origin.reportsOf(device.id).at(-1)).toMatchObject({ state: 'completed', release: { counter: 2 } });
  expect([device.parts.outbox.pendingCount, epochs().size]).toEqual([0, 1]);
});

it.each([undefined, 600])(
  'treats a refusal of everything as temporary, whatever time it names (%s)',
  async forS => {
    await start(site, other);
    Object.assign(site, { refuses: 'whole', judge: () => 'REPORTS_OVER_BUDGET', retryAfterS: forS });
    await tell('one');
    await deliver();
    // The next gateway accepts it.
    expect(reported()).toEqual(['1 one']);
    const before = posts();
    await tell('two');
    await deliver();
    expect([posts(), epochs().size]).toEqual([before, 1]);
  },
);

it.each([
  ['whole', 0],
  ['each', 0],
  ['each', 0.001],
] as const)(
  'does not ask again at once where a gateway refuses (%s) everything for %s seconds',
  async (refuses, retryAfterS) => {
    await start(site);
    Object.assign(site, { refuses, judge: () => 'REPORTS_OVER_BUDGET', retryAfterS });
    await tell('one', 'two');
    const before = posts();
    for (let runs = 0; runs < 3; runs += 1) await deliver();
    expect(posts() - before).toBe(1);
  },
);

it.each(['REPORT_GAP', 'ANYTHING'])(
  'asks the next gateway where one refuses everything, with %s',
  async code => {
    await start(site, other);
    site.judge = () => code;
    await tell('one', 'two');
    await deliver();
    expect(reported()).toEqual(['1 one', '2 two']);
  },
);

describe('a gateway that accepts reports which the origin never acknowledges', () => {
  const changes: DeviceChanges = {};
  const postsTo = (at: FakeGateway) => at.count('POST /site/v1/reports');
  const counts = () => [postsTo(site), postsTo(other)];
  async function startWithClock(...sites: FakeGateway[]): Promise<void> {
    await start(...sites);
    await device.close();
    changes.clockOffsetMs = 0;
    await device.open(changes);
    site.requests.length = 0;
    other.requests.length = 0;
  }
  async function deliverAfter(minutes: number): Promise<void> {
    changes.clockOffsetMs = (changes.clockOffsetMs ?? 0) + minutes * 60_000 + 1000;
    Object.assign(site, { clockOffsetMs: changes.clockOffsetMs });
    Object.assign(other, { clockOffsetMs: changes.clockOffsetMs });
    for (let runs = 0; runs < 3; runs += 1) await deliver();
  }

  it('is replaced by the next one, which gets new reports first from then on', async () => {
    await startWithClock(site, other);
    site.swallowsReports = true;
    await tell('one');
    await deliverAfter(0);
    await deliverAfter(4);
    expect([reported(), counts()]).toEqual([[], [1, 0]]);
    // Later reports don't give the first gateway more time.
    await tell('one', 'two');
    await deliverAfter(0);
    await deliverAfter(1);
    expect(reported()).toEqual(['1 one', '2 two']);
    expect(device.parts.outbox.pendingCount).toBe(0);
    const before = postsTo(site);
    await tell('one', 'two', 'three');
    await deliver();
    expect(reported()).toEqual(['1 one', '2 two', '1 one', '2 two', '3 three']);
    expect(postsTo(site)).toBe(before);
    // The gateway is still used where the other one fails.
    other.misbehave = () => 'drop';
    site.swallowsReports = false;
    await tell('four');
    await deliver();
    expect(reported().at(-1)).toBe('1 four');
  });

  it('is replaced once per period where the origin is unreachable for all', async () => {
    await startWithClock(site, other);
    origin.acknowledges = false;
    await tell('one', 'two');
    await deliverAfter(0);
    expect(counts()).toEqual([1, 0]);
    await deliverAfter(5);
    expect(counts()).toEqual([1, 1]);
    await deliverAfter(5);
    expect(counts()).toEqual([2, 1]);
    await deliverAfter(5);
    expect(counts()).toEqual([2, 2]);
    origin.acknowledges = true;
    await deliver();
    expect([reported(), device.parts.outbox.pendingCount]).toEqual([['1 one', '2 two'], 0]);
  });

  it('gets the reports again where there is no other', async () => {
    await startWithClock(site);
    site.swallowsReports = true;
    await tell('one');
    await deliverAfter(0);
    site.swallowsReports = false;
    await deliverAfter(4);
    expect(reported()).toEqual([]);
    await deliverAfter(1);
    expect(reported()).toEqual(['1 one']);
  });
});

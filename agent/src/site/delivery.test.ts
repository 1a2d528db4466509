import { randomBytes } from 'node:crypto';
import type { Report } from '@sitecast/shared/fleet';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type DeviceChanges, TestDevice } from '../adapters/test-device.ts';
import { TestFleet } from '../testing/fleet.ts';
import { TestOrigin, TestSite } from '../testing/site.ts';

let origin: TestOrigin;
let site: TestSite;
let other: TestSite;
let device: TestDevice;

beforeEach(async () => {
  const fleet = await TestFleet.create();
  fleet.addRelease({ counter: 1, image: randomBytes(10_000) });
  fleet.rollOut(1);
  await fleet.publish();
  origin = new TestOrigin(fleet);
  site = await TestSite.open(origin);
  other = await TestSite.open(origin);
});
afterEach(async () => {
  await device.remove();
  await site.close();
  await other.close();
});

/** A device that has updated itself, and has told all of it. */
async function start(...sites: TestSite[]): Promise<void> {
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
const epochs = () => new Set(origin.told(device.id).map(({ epoch }) => epoch));
/** Attempt and message of what was told as failed in the newest chain. */
function told(): string[] {
  const newest = origin.told(device.id).filter(({ epoch }) => epoch === device.parts.outbox.epoch);
  return newest
    .filter(({ state, rollout }) => state === 'failed' && rollout)
    .map(({ rollout, reason }) => `${rollout?.attempt} ${reason?.message}`);
}
const posts = () => site.requests.filter(path => path === '/site/v1/reports').length;

it.each(['whole', 'each'] as const)(
  'goes on past a report that is refused for what it is, and tells it again without its text (%s)',
  async refuses => {
    await start(site);
    Object.assign(site, { refuses, judge: refusing('two', 'four') });
    await tell('one', 'two', 'three', 'four', 'five');
    await deliver();
    await deliver();
    const leftOut = 'what was told here is left out: it was refused with SITECAST_DOCUMENT_MALFORMED';
    expect(told()).toEqual(['1 one', `2 ${leftOut}`, '3 three', `4 ${leftOut}`, '5 five']);
    expect(device.parts.outbox.pendingCount).toBe(0);
    const [, second] = [...epochs()];
    expect(origin.told(device.id).find(({ epoch }) => epoch === second)).toMatchObject({
      seq: 1,
      reason: {
        code: 'SITECAST_REPORTS_TOLD_AGAIN',
        message: expect.stringContaining(`${site.url} refuses report`),
      },
    });
    expect(origin.told(device.id).filter(({ reason }) => reason?.code === 'healthFailed')).toHaveLength(
      // The first arrived in the first chain already.
      6,
    );
  },
);

it('gets past more refusals in a row than it believes in at once', async () => {
  await start(site);
  const bad = Array.from({ length: 9 }, (_, at) => `bad ${at}`);
  Object.assign(site, { refuses: 'whole', judge: refusing(...bad) });
  await tell(...bad, 'good');
  for (let runs = 0; runs < 5; runs += 1) await deliver();
  expect(told()).toHaveLength(10);
  expect(told().at(-1)).toBe('10 good');
  expect(epochs().size).toBe(2);
  expect(device.parts.outbox.pendingCount).toBe(0);
});

it('leaves a report as it is that another gateway takes', async () => {
  await start(site, other);
  site.judge = refusing('two');
  await tell('one', 'two', 'three');
  await deliver();
  expect(told()).toEqual(['1 one', '2 two', '3 three']);
  expect(epochs().size).toBe(1);
  expect(device.parts.outbox.pendingCount).toBe(0);
});

it('keeps all, in its chain, from a gateway that refuses everything, and asks it little', async () => {
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
  expect(told()).toHaveLength(30);
  expect(epochs().size).toBe(1);
});

it('begins one new chain in an hour at the most, however many reports a gateway refuses', async () => {
  await start(site);
  site.judge = ({ reason }) => (/^\d+$/.test(reason?.message ?? '') ? 'DOCUMENT_MALFORMED' : undefined);
  for (let times = 0; times < 3; times += 1) {
    await tell('one', String(times), 'two');
    for (let runs = 0; runs < 3; runs += 1) await deliver();
  }
  expect(epochs().size).toBe(2);
  // Nothing was dropped: it waits.
  const waiting = device.parts.outbox.recent().map(({ reason }) => reason?.message);
  expect(waiting).toEqual(expect.arrayContaining(['1', '2']));
  expect(device.parts.delivery.refusal).toContain('refuses report');
});

it('begins a new chain, with every text, where the origin has another report in its place', async () => {
  await start(site);
  site.judge = () => 'REPORT_GAP';
  await tell('one');
  const [{ seq, payloadSha256 } = { seq: 0, payloadSha256: '' }] = device.parts.outbox.pending();
  const { epoch } = device.parts.outbox;
  const forked = (digest: string) => ({ epoch, seq, digest, code: 'SITECAST_REPORT_FORK' });
  // Another machine's, with this one's number: nothing to begin anew for.
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
  expect(told()).toEqual(['1 one']);
});

it('waits with what a gateway takes later, sends it in order when the time comes, and goes on with an update meanwhile', async () => {
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
  // Not asked again, but heard: what was taken is acknowledged.
  expect(posts()).toBe(before);
  expect(device.parts.outbox.pendingCount).toBe(2);
  expect(device.parts.delivery.refusal).toMatch(/takes the next reports in \d+ s/);
  const { fleet } = origin;
  fleet.addRelease({ counter: 2, image: randomBytes(10_000) });
  fleet.rollOut(2);
  await fleet.publish();
  expect(await device.cycle()).toMatchObject({ state: 'completed' });
  expect(posts()).toBe(before);
  site.judge = () => undefined;
  changes.clockOffsetMs = 601_000;
  await deliver();
  await deliver();
  expect(told()).toEqual(['1 one', '2 two', '3 three', '4 four']);
  expect(origin.told(device.id).at(-1)).toMatchObject({ state: 'completed', release: { counter: 2 } });
  expect([device.parts.outbox.pendingCount, epochs().size]).toEqual([0, 1]);
});

it.each([undefined, 600])(
  'takes a refusal of all for now as such, whatever it says of the time (%s)',
  async forS => {
    await start(site, other);
    Object.assign(site, { refuses: 'whole', judge: () => 'REPORTS_OVER_BUDGET', retryAfterS: forS });
    await tell('one');
    await deliver();
    // The next gateway takes it.
    expect(told()).toEqual(['1 one']);
    const before = posts();
    await tell('two');
    await deliver();
    expect([posts(), epochs().size]).toEqual([before, 1]);
  },
);

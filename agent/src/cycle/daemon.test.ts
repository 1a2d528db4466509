import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { TestDevice } from '../adapters/test-device.ts';
import { TestFleet } from '../testing/fleet.ts';
import { until } from '../testing/process.ts';
import { TestOrigin, TestSite } from '../testing/site.ts';
import { Daemon } from './daemon.ts';

let fleet: TestFleet;
let origin: TestOrigin;
let site: TestSite;
let device: TestDevice;
const stop = { controller: new AbortController() };
let running: Promise<void>;
const image = randomBytes(100_000);

beforeEach(async () => {
  fleet = await TestFleet.create();
  origin = new TestOrigin(fleet);
  site = await TestSite.open(origin);
  device = await TestDevice.create([site.url], fleet.rootBytes);
  fleet.addRelease({ counter: 1, image });
  fleet.rollOut(1);
  await fleet.publish();
  await device.open({ isStarted: false });
  stop.controller = new AbortController();
  const daemon = new Daemon(device.agent, device.parts, { pollMs: 600_000, startJitterMs: 0 });
  running = daemon.run(stop.controller.signal);
});
afterEach(async () => {
  stop.controller.abort();
  await running;
  await device.remove();
  await site.close();
});

const states = () => origin.told(device.id).map(({ state }) => state);

it('stops a download at once when the rollout is paused, goes on when it is lifted, and tells meanwhile', async () => {
  site.mischief = path => (path.startsWith('/chunks/') && site.count('/chunks/') > 3 ? 'hang' : undefined);
  await until('the download is under way, and told', () => states().includes('downloading'));
  const [rollout] = fleet.rollouts;
  if (rollout) rollout.state = 'paused';
  await fleet.publish();
  await until('it has stopped', () => states().at(-1) === 'waiting');
  expect(device.parts.status.current).toMatchObject({ state: 'waiting', waitingFor: 'rollout' });
  site.mischief = () => undefined;
  if (rollout) rollout.state = 'active';
  await fleet.publish();
  await until('it is completed', () => states().at(-1) === 'completed');
  expect(await device.slot('B')).toEqual(image);
  expect(states()).toContain('idle');
});

it('waits between one piece of news and the next while a download goes on, instead of asking again and again', async () => {
  site.mischief = path => (path.startsWith('/chunks/') && site.count('/chunks/') > 3 ? 'hang' : undefined);
  await until('the download is under way', () => site.count('/chunks/') > 3);
  const before = site.count('/metadata/timestamp.json');
  fleet.addRelease({ counter: 2, image });
  await fleet.publish();
  await until('the news has come', () => site.count('/metadata/timestamp.json') > before);
  await new Promise(resolve => setTimeout(resolve, 500));
  // One long poll that tells of it, one look at it, the next long poll: not hundreds.
  expect(site.count('/metadata/timestamp.json') - before).toBeLessThan(10);
});

it('is not kept busy by a gateway that always claims to have news', async () => {
  await until('it is completed', () => states().at(-1) === 'completed');
  site.alwaysChanged = true;
  const before = site.requests.length;
  await new Promise(resolve => setTimeout(resolve, 3000));
  // Two cycles for free, then after 0.5 s, 1 s, 2 s: some ten requests each.
  expect(site.requests.length - before).toBeLessThan(100);
});

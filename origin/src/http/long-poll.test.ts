import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MAX_WAIT_S, MAX_WAITERS } from './long-poll.ts';

let harness: FleetHarness;
beforeAll(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
});
afterAll(() => harness.close());

const PATH = '/metadata/timestamp.json';
const newest = async () => (await harness.ask(PATH)).headers.get('etag') ?? '';
const poll = async (prefer: string, tag: string) =>
  await harness.ask(PATH, { headers: { prefer, 'if-none-match': tag } });

async function waiting(count: number): Promise<void> {
  while (harness.origin.waiters.count !== count) await sleep(5);
}

it('answers a client that has an older timestamp, or none, at once', async () => {
  expect((await poll('wait=55', '"x"')).status).toBe(200);
  expect((await harness.ask(PATH, { headers: { prefer: 'wait=55' } })).status).toBe(200);
  const unasked = await harness.ask(PATH, { headers: { 'if-none-match': await newest() } });
  expect(unasked.status).toBe(304);
  expect(unasked.headers.get('preference-applied')).toBeNull();
});

it('answers all waiting clients as soon as something is published', async () => {
  const tag = await newest();
  const polls = Array.from({ length: 20 }, () => poll('respond-async, wait=50', tag));
  await waiting(20);
  await harness.startRollout({ match: { sites: ['wake'] }, allowUnknown: true });
  for (const answer of await Promise.all(polls)) {
    expect(answer.status).toBe(200);
    expect(answer.headers.get('preference-applied')).toBe('wait=50');
    expect(answer.headers.get('etag')).toBe(await newest());
  }
});

it('answers that nothing has changed when the time is over', async () => {
  const answer = await poll('wait=1', await newest());
  expect(answer.status).toBe(304);
  expect((await poll('wait=0', await newest())).status).toBe(304);
});

it('bounds the wait, and ignores a malformed one', async () => {
  const tag = await newest();
  const long = poll('wait=999999', tag);
  await waiting(1);
  for (const prefer of ['wait', 'wait=', 'wait=-1', 'wait=x', 'waiting=5', 'wait=99999999999']) {
    const applied = (await poll(prefer, tag)).headers.get('preference-applied');
    expect({ prefer, applied }).toEqual({ prefer, applied: null });
  }
  await harness.startRollout({ match: { sites: ['wake2'] }, allowUnknown: true });
  expect((await long).headers.get('preference-applied')).toBe(`wait=${MAX_WAIT_S}`);
});

it('bounds the waiting clients, gives a new one the place of an address that has many, and ends all when closed', async () => {
  const tag = await newest();
  const polls = Array.from({ length: MAX_WAITERS }, () => poll('wait=50', tag));
  await waiting(MAX_WAITERS);
  expect((await poll('wait=50', tag)).status).toBe(304);
  const headers = { prefer: 'wait=50', 'if-none-match': tag };
  const other = { incoming: { socket: { remoteAddress: '192.0.2.7' } } };
  const newcomer = harness.origin.app.request(PATH, { headers }, other);
  expect((await Promise.race(polls)).headers.get('preference-applied')).toBeNull();
  await waiting(MAX_WAITERS);
  harness.origin.waiters.close();
  expect((await newcomer).headers.get('preference-applied')).toBe('wait=50');
  for (const answer of await Promise.all(polls)) expect(answer.status).toBe(304);
  expect((await poll('wait=50', tag)).status).toBe(304);
});

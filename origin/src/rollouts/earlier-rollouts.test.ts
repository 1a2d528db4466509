import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';

let harness: FleetHarness;
beforeEach(async () => {
  harness = await FleetHarness.open(testDisk);
  for (let releases = 1; releases < 3; releases += 1) await harness.publishNext();
});
afterEach(() => harness.close());

const path = (id: unknown, rest = '') => `/api/v1/rollouts/${String(id)}${rest}`;
const status = (id: unknown) => harness.call('GET', path(id));
const act = (id: unknown, name: string, body?: unknown) => harness.call('POST', path(id, `/${name}`), body);
const releaseOf = (counter: number) => ({ counter, version: `${counter}.0.0` });

async function start(counter: number): Promise<string> {
  harness.clock.nowMs += 1000;
  const plan = { maxFailuresBasisPoints: 10_000, onFailure: 'pause' };
  return String((await harness.startRollout({ counter, allowDowngrade: true, ...plan })).id);
}

const say = (device: TestMember, id: string, counter: number, said: Record<string, unknown>, attempt = 1) =>
  device.report({ release: releaseOf(counter), rollout: { id, attempt }, ...said });
const completes = (device: TestMember, id: string, counter: number) =>
  say(device, id, counter, { state: 'completed', booted: { slot: 'B', release: releaseOf(counter) } });
const FAILED = { state: 'failed', reason: { code: 'healthFailed', message: 'exit code 1' } } as const;

it('a retry leads to an attempt above those of all earlier rollouts of the release: one is enough to lift every bar', async () => {
  const device = await harness.device();
  const first = await start(2);
  await say(device, first, 2, FAILED);
  expect(await act(first, 'retry')).toMatchObject({ attempt: 2 });
  await say(device, first, 2, FAILED, 2);
  await act(first, 'abort');
  const dryRun = { product: 'camera', counter: 2, allAtOnce: true, dryRun: true };
  expect(await harness.call('POST', '/api/v1/rollouts', dryRun)).toMatchObject({ failedBefore: 1 });
  expect(
    (await harness.call('POST', '/api/v1/rollouts', { ...dryRun, counter: 3 })).failedBefore,
  ).toBeUndefined();
  const second = await start(2);
  expect(await status(second)).toMatchObject({ attempt: 1 });
  expect(await harness.call('GET', path(second, '/preview?act=retry'))).toMatchObject({ target: 3 });
  for (let times = 0; times < 2; times += 1)
    expect(await act(second, 'retry', { target: 3 })).toMatchObject({ attempt: 3 });
});

it('a rollback to a release says on how many devices that one has failed', async () => {
  const device = await harness.device();
  const failing = await start(2);
  await say(device, failing, 2, FAILED);
  await act(failing, 'abort');
  const id = await start(3);
  await completes(device, id, 3);
  const what = async (to: string) =>
    (await harness.call('GET', path(id, `/preview?act=rollback&to=${to}`))).what;
  expect(await what('2.0.0')).toContain('go back to 2.0.0, which failed on 1 device before');
  expect(await what('1.0.0')).not.toContain('failed');
});

it('a rollback of an ended rollout to a chosen release counts devices, too, that got its release by an earlier one', async () => {
  const [early, late] = [await harness.device(), await harness.device()];
  const first = await start(3);
  await completes(early, first, 3);
  await act(first, 'complete');
  const second = await start(3);
  await completes(late, second, 3);
  await act(second, 'complete');
  const touched = async (query: string) =>
    (await harness.call('GET', path(second, `/preview?act=rollback${query}`))).touches;
  expect(await touched('&to=1.0.0')).toBe(2);
  // Without a release to go to, a device can't leave what it didn't get by this rollout.
  expect(await touched('')).toBe(1);
});

it('a device that failed on its way back, and runs the release still, is shown as failed; one that is back as rolled back', async () => {
  const [stuck, back] = [await harness.device(), await harness.device()];
  const id = await start(3);
  for (const device of [stuck, back]) await completes(device, id, 3);
  await act(id, 'rollback', { to: '1.0.0' });
  await say(stuck, id, 1, { ...FAILED });
  const still = { slot: 'B', release: releaseOf(3) } as const;
  await say(stuck, id, 1, { state: 'rolledBack', reason: FAILED.reason, booted: still });
  await say(back, id, 1, { state: 'rolledBack', booted: { slot: 'A', release: releaseOf(1) } });
  expect(await status(id)).toMatchObject({ counts: { failed: 1, rolledBack: 1 } });
});

it.each([
  ['says so', { isConfirmed: false }],
  ['is of an earlier release, and says nothing of it', {}],
])('a device that runs the release on trial and %s does not count as one that has it', async (_who, said) => {
  const device = await harness.device();
  const id = await start(3);
  await say(device, id, 3, { ...FAILED, booted: { slot: 'B', release: releaseOf(3), ...said } });
  expect(await act(id, 'retry')).toMatchObject({ attempt: 2 });
  expect(await status(id)).toMatchObject({ counts: { pending: 1 } });
  await say(device, id, 3, { state: 'completed', booted: { slot: 'B', release: releaseOf(3) } }, 2);
  expect(await status(id)).toMatchObject({ counts: { completed: 1 } });
});

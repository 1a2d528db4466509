import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AgentHarness } from '../testing/harness.ts';
import { PowerCut, powerCutAt } from '../testing/power-cut.ts';

const image1 = randomBytes(300_000);
const image2 = Buffer.concat([image1.subarray(0, 200_000), randomBytes(90_000)]);

let harness: AgentHarness;

beforeEach(async () => {
  harness = await AgentHarness.open();
});
afterEach(async () => {
  await harness.close();
});

const states = () => harness.reportedStates;

async function install(counter: number, image: Buffer, changes = {}) {
  harness.fleet.addRelease({ counter, image });
  const rollout = harness.fleet.addRollout(counter, changes);
  await harness.fleet.publishAll();
  return { rollout, rest: await harness.device.cycle() };
}

describe('an update', () => {
  it('is fetched, verified, activated, found healthy and reported', async () => {
    const { rest, rollout } = await install(1, image1);
    expect(rest).toMatchObject({ state: 'completed' });
    expect(await harness.device.slot('B')).toEqual(image1);
    const { stateFile, boot } = harness.device.parts;
    expect(await boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    expect(stateFile.current.slots.B).toMatchObject({ state: 'verified', release: { counter: 1 } });
    expect(states()).toEqual([
      'idle',
      'downloading',
      'verifying',
      'installing',
      'rebooting',
      'confirming',
      'completed',
    ]);
    expect(harness.reports.at(-1)).toMatchObject({
      rollout: { id: rollout.id, attempt: 1 },
      release: { counter: 1, version: '1.0.0' },
      booted: { slot: 'B' },
    });
    expect(await harness.device.cycle()).toMatchObject({ state: 'idle' });
    expect(harness.device.parts.outbox.pendingCount).toBe(0);
  });

  it('goes to the slot that does not run, and fetches no chunk that is in place there', async () => {
    await install(1, image1);
    await install(2, image2);
    expect(await harness.device.slot('A')).toEqual(image2);
    const chunks = harness.gateway.count('/chunks/');
    // Slot B still holds the same bytes, which are now another release's.
    expect((await install(3, image1)).rest).toMatchObject({ state: 'completed' });
    expect(harness.gateway.count('/chunks/')).toBe(chunks);
    expect(await harness.device.slot('B')).toEqual(image1);
  });

  it('whose health check fails falls back, reports and bars the release, and does not try it again', async () => {
    await install(1, image1);
    await harness.device.close();
    await harness.device.open({ settings: { hooks: { health: 'exit 3' } } });
    const { rest, rollout } = await install(2, image2);
    expect(rest).toMatchObject({ state: 'rolledBack', reason: { code: 'healthFailed' } });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    expect(harness.device.parts.stateFile.current.slots.A).toMatchObject({ state: 'bad' });
    expect(states().slice(-3)).toEqual(['confirming', 'failed', 'rolledBack']);
    const chunks = harness.gateway.count('/chunks/');
    expect(await harness.device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_RELEASE_BARRED' },
    });
    expect(harness.gateway.count('/chunks/')).toBe(chunks);
    await harness.device.close();
    await harness.device.open();
    rollout.attempt = 2;
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    // The whole image was in the slot. It was marked bad, but its bytes were right.
    expect(harness.gateway.count('/chunks/')).toBe(chunks);
    // The success lifts the bar: a later rollout of that release begins with attempt 1.
    expect(harness.device.parts.status.current.barred).toEqual([]);
    await install(3, image1);
    harness.fleet.addRollout(2);
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.stateFile.current.slots.A.release).toMatchObject({ counter: 2 });
  });
});

describe('a boot loader that falls back long after the release was confirmed', () => {
  /** Boots the machine into the given slot. */
  async function comeUpIn(slot: 'A' | 'B', changes = {}) {
    await harness.device.parts.boot.setNext(slot);
    await harness.device.close({ isCut: true });
    await harness.device.open(changes);
  }

  it('is noticed at the start, reported as a failure, barred and shown', async () => {
    await install(1, image1);
    const { rollout } = await install(2, image2);
    await comeUpIn('B');
    expect(harness.device.parts.status.current).toMatchObject({
      state: 'rolledBack',
      booted: 'B',
      lastFailure: { release: { counter: 2 }, reason: { code: 'bootCountExhausted' } },
      barred: [{ counter: 2, attempt: 1 }],
      slots: { A: { state: 'bad' } },
    });
    expect(await harness.device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_RELEASE_BARRED' },
    });
    expect(harness.reports.at(-1)).toMatchObject({
      state: 'rolledBack',
      rollout: { id: rollout.id, attempt: 1 },
      release: { counter: 2 },
      reason: { code: 'bootCountExhausted' },
      booted: { slot: 'B', release: { counter: 1 } },
    });
    // No later boot chooses that slot by itself.
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B', next: 'B' });
    rollout.attempt = 2;
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });

  it('is reported once, however often the power fails while it is recorded', async () => {
    await install(1, image1);
    await install(2, image2);
    await expect(comeUpIn('B', { failpoint: powerCutAt('state.json before') })).rejects.toThrow(PowerCut);
    await harness.device.close({ isCut: true });
    await harness.device.open();
    await harness.device.cycle();
    expect(states().filter(state => state === 'rolledBack')).toHaveLength(1);
    expect(harness.device.parts.stateFile.current).toMatchObject({ booted: 'B', barred: [{ counter: 2 }] });
  });

  it('is not assumed where only the agent was restarted; an unknown release is not barred', async () => {
    await writeFile(join(harness.device.directory, 'a.img'), 'from the factory');
    await install(1, image1);
    const { slots } = harness.device.parts.stateFile.current;
    await harness.device.close();
    await harness.device.open();
    await harness.device.cycle();
    expect(states()).not.toContain('rolledBack');
    // The factory's image is reported. There is no release to bar.
    await comeUpIn('A');
    await harness.device.parts.stateFile.change({ barred: [], slots });
    await comeUpIn('B');
    expect(harness.device.parts.stateFile.current.barred).toEqual([]);
    await harness.device.cycle();
    const [last] = harness.reports.slice(-1);
    expect(last).toMatchObject({ state: 'rolledBack', booted: { slot: 'B' } });
    expect(last?.release).toBeUndefined();
  });

  it('away from a release that an order led back to does not carry out that order again', async () => {
    await install(1, image1);
    const { rollout } = await install(2, image2);
    rollout.state = 'rollingBack';
    await harness.fleet.publishAll();
    await harness.device.cycle();
    await comeUpIn('A');
    expect(await harness.device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_ROLLBACK_FAILED' },
    });
    expect(harness.reports.at(-1)).toMatchObject({
      state: 'rolledBack',
      rollout: { id: rollout.id },
      release: { counter: 1 },
      reason: { code: 'bootCountExhausted' },
    });
  });
});

describe('a device keeps to orders', () => {
  it('waits for an operator where it has no token, and continues once it is accepted', async () => {
    harness.origin.acceptsEnrolments = 'pending';
    expect((await install(1, image1)).rest).toMatchObject({ state: 'waiting', waitingFor: 'acceptance' });
    expect(harness.device.parts.status.current).toMatchObject({ enrolment: 'pending' });
    await harness.origin.assign({ id: harness.device.id });
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });

  it('logs a hook that says "not now", even if nothing waits for it', async () => {
    const logged: string[] = [];
    await harness.device.open({
      settings: { hooks: { 'post-install': 'echo busy; exit 75' } },
      log: (_level, message) => void logged.push(message),
    });
    expect((await install(1, image1)).rest).toMatchObject({ state: 'completed' });
    expect(logged).toContain('post-install: exit code 75: busy; the update goes on');
  });

  it('stops at a pause before the boot loader is told, and continues when the rollout resumes', async () => {
    await harness.device.open({ settings: { hooks: { 'pre-install': 'exit 75' } } });
    const { rest, rollout } = await install(1, image1);
    expect(rest).toMatchObject({ state: 'waiting', waitingFor: 'hook' });
    await harness.device.close();
    await harness.device.open();
    rollout.state = 'paused';
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({
      state: 'waiting',
      reason: { code: 'SITECAST_ROLLOUT_PAUSED' },
    });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A' });
    rollout.state = 'active';
    await harness.fleet.publishAll();
    const chunks = harness.gateway.count('/chunks/');
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.gateway.count('/chunks/')).toBe(chunks);
  });

  it('returns to the release that it came from when the rollout rolls back, without fetching a byte', async () => {
    await install(1, image1);
    const { rollout } = await install(2, image2);
    const chunks = harness.gateway.count('/chunks/');
    rollout.state = 'rollingBack';
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'rolledBack' });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'B' });
    expect(harness.gateway.count('/chunks/')).toBe(chunks);
    expect(harness.reports.at(-1)).toMatchObject({ state: 'rolledBack', reason: { code: 'ordered' } });
    expect(await harness.device.cycle()).toMatchObject({ state: 'idle' });
  });

  it('returns to the release that the order names, and fetches the chunks that no slot has', async () => {
    await install(1, image1);
    const { rollout: baseline } = await install(2, image2);
    const { rollout } = await install(3, randomBytes(200_000));
    baseline.state = 'completed';
    rollout.state = 'rollingBack';
    rollout.rollbackTo = { counter: 1, version: '1.0.0' };
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'rolledBack' });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A' });
    expect(await harness.device.slot('A')).toEqual(image1);
    expect(harness.reports.at(-1)).toMatchObject({
      state: 'rolledBack',
      release: { counter: 1 },
      booted: { slot: 'A', release: { counter: 1 } },
      reason: { code: 'ordered' },
    });
    // It stays there, even though an older rollout is the baseline.
    expect(await harness.device.cycle()).toMatchObject({ state: 'idle' });
  });

  it('does not roll back below the floor', async () => {
    await install(1, image1);
    const { rollout } = await install(2, image2);
    rollout.state = 'rollingBack';
    harness.fleet.camera.floor = { counter: 2, version: '2.0.0' };
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_ROLLBACK_IMPOSSIBLE' },
    });
    expect(await harness.device.parts.boot.read()).toMatchObject({ booted: 'A' });
    expect(harness.reports.at(-1)).toMatchObject({
      state: 'blocked',
      rollout: { id: rollout.id },
      reason: { code: 'SITECAST_ROLLBACK_IMPOSSIBLE' },
    });
  });

  it('installs the stepping stone that an older rollout offers, then the release that needed it', async () => {
    await install(1, image1);
    harness.fleet.addRelease({ counter: 2, image: image2 });
    harness.fleet.addRelease({ counter: 3, image: image1, minimum: { counter: 2, version: '2.0.0' } });
    harness.fleet.addRollout(3);
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({
      state: 'blocked',
      reason: { code: 'SITECAST_STEPPING_STONE' },
    });
    harness.fleet.camera.rollouts.splice(1, 0, { ...harness.fleet.addRollout(2), state: 'completed' });
    harness.fleet.camera.rollouts.pop();
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.stateFile.current.slots.A.release).toMatchObject({ counter: 2 });
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
    expect(harness.device.parts.stateFile.current.slots.B.release).toMatchObject({ counter: 3 });
  });

  it('waits for a lease of its gateway, and names its holders by ids, names and times only', async () => {
    const { id } = new Identity(KeyPair.generate());
    const until = '2030-01-01T00:15:00.000Z';
    const heldBy = [
      { id, name: 'x\u001b[2J', until },
      { id, name: 'cam-2', until },
      { id: 'x\u001b[2J', until },
      { id, until: 'soon' },
    ];
    harness.gateway.lease = () => ({ granted: false, retryAfterMs: 100, heldBy });
    const { rest } = await install(1, image1);
    expect(rest).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
    // The device doesn't ask constantly, whatever the gateway answers.
    expect(rest.retryMs).toBeGreaterThanOrEqual(1000);
    const message = `other devices of this site are being updated: ${id} until ${until}, cam-2 until ${until}`;
    expect(harness.reports.at(-1)).toMatchObject({
      state: 'waiting',
      reason: { code: 'SITECAST_LEASE_DENIED', message },
    });
    // A gateway may refuse a lease for a reason that concerns this device only.
    harness.gateway.leaseProblem = {
      code: 'SITECAST_OTHER_SITE',
      detail: 'this device belongs to another site',
    };
    expect(await harness.device.cycle()).toMatchObject({ state: 'waiting', waitingFor: 'lease' });
    expect(harness.reports.at(-1)?.reason).toMatchObject({
      code: 'SITECAST_LEASE_REFUSED',
      message: expect.stringContaining('SITECAST_OTHER_SITE, this device belongs to another site'),
    });
    harness.gateway.leaseProblem = undefined;
    harness.gateway.lease = () => ({ granted: true });
    expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  });

  it('renews its lease while the new slot proves itself, and returns it afterwards', async () => {
    harness.gateway.lease = () => ({ granted: true });
    // Five minutes pass in 150 ms.
    await harness.device.open({
      haste: 2000,
      settings: { hooks: { health: 'sleep 1' }, healthTimeoutMs: 20_000 },
    });
    expect((await install(1, image1)).rest).toMatchObject({ state: 'completed' });
    const whileUpdating = harness.gateway.count('/site/v1/leases');
    expect(whileUpdating).toBeGreaterThanOrEqual(4);
    await new Promise(resolve => setTimeout(resolve, 400));
    expect(harness.gateway.count('/site/v1/leases')).toBe(whileUpdating);
  });

  it('keeps its own minimum time between activations', async () => {
    await harness.device.open({ settings: { minActivationIntervalMs: 3_600_000 } });
    await install(1, image1);
    expect((await install(2, image2)).rest).toMatchObject({ state: 'waiting', waitingFor: 'interval' });
  });

  it('fetches no more than its limit', async () => {
    await harness.device.open({ settings: { maxFetchBytes: 1000 } });
    expect((await install(1, image1)).rest).toMatchObject({
      state: 'waiting',
      reason: { code: 'SITECAST_PLAN_TOO_LARGE' },
    });
    expect(harness.gateway.count('/chunks/')).toBe(0);
  });

  it('ignores a rollout for other hardware, and is blocked by a manifest for other hardware', async () => {
    expect((await install(1, image1, { match: { hardware: ['rpi5'] } })).rest).toMatchObject({
      state: 'idle',
    });
    harness.fleet.addRelease({ counter: 2, image: image2, hardware: ['rpi5'] });
    harness.fleet.addRollout(2);
    await harness.fleet.publishAll();
    expect(await harness.device.cycle()).toMatchObject({ reason: { code: 'SITECAST_HARDWARE_MISMATCH' } });
  });

  it('follows no order once it is revoked', async () => {
    await harness.device.open();
    await harness.device.cycle();
    harness.fleet.camera.revoked = [harness.device.id];
    expect((await install(1, image1)).rest).toMatchObject({ reason: { code: 'SITECAST_DEVICE_REVOKED' } });
  });

  it('keeps the assignment with the highest serial, whatever a gateway sends', async () => {
    await harness.device.open();
    await harness.device.cycle();
    await harness.origin.assign({ id: harness.device.id, serial: 3, tags: { ring: 'early' } });
    await harness.device.cycle();
    await harness.origin.assign({ id: harness.device.id, serial: 2 });
    expect((await install(1, image1, { match: { tags: { ring: 'early' } } })).rest).toMatchObject({
      state: 'completed',
    });
  });
});

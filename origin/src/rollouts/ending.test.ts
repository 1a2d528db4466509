import { type DeviceState, parseRollouts, type Rollout } from '@sitecast/shared/fleet';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { AuditEvent } from '../audit/audit.ts';
import type { FleetEvent } from '../events/events.ts';
import type { TestMember } from '../testing/device.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MemoryTables } from '../testing/memory-tables.ts';

// How rollouts end, and what can follow. The origin has no socket; a test sets the devices' reports.

let harness: FleetHarness;
let north: TestMember;
let south: TestMember;
let audited: AuditEvent[];
let told: string[];

beforeEach(async () => {
  audited = [];
  told = [];
  const store = new MemoryTables();
  const disks = (path: string) => ({
    ...testDisk(path),
    audit: {
      record: async (event: AuditEvent) => {
        if (event.action.startsWith('rollout.')) audited.push(event);
      },
    },
    events: {
      emit: ({ type, rollout }: FleetEvent) =>
        void (type.startsWith('rollout.') && told.push(`${type} ${String(rollout)}`)),
    },
  });
  harness = await FleetHarness.open(disks, store);
  await harness.publishNext();
  await harness.publishNext();
  north = await harness.device('north');
  south = await harness.device('south');
});
afterEach(() => harness.close());

const path = (id: unknown, rest = '') => `/api/v1/rollouts/${String(id)}${rest}`;
const status = (id: unknown) => harness.call('GET', path(id));
const act = (id: unknown, name: string, body?: unknown) => harness.call('POST', path(id, `/${name}`), body);
const preview = (id: unknown, query: string) => harness.call('GET', path(id, `/preview?act=${query}`));
const startOf = (counter: number, more: Record<string, unknown> = {}) =>
  harness.startRollout({ counter, ...more });

async function pass(hours: number): Promise<void> {
  harness.clock.passHours(hours);
  await harness.origin.rollouts.reconcile();
}

async function say(
  id: unknown,
  counter: number,
  device: TestMember,
  state: 'completed' | 'failed' | 'rolledBack' | 'confirming' | 'blocked',
  code = 'healthFailed',
): Promise<void> {
  const release = { counter, version: `${counter}.0.0` };
  const before = { counter: counter - 1, version: `${counter - 1}.0.0` };
  await device.report({
    state,
    release,
    booted: { slot: 'B', release: state === 'completed' || state === 'confirming' ? release : before },
    ...(state !== 'completed' && state !== 'confirming' && { reason: { code, message: '' } }),
    rollout: { id: String(id), attempt: 1 },
  });
  await harness.origin.rollouts.checkCompletion();
}

/** Starts a rollout of a release, and lets both devices install it. */
async function rolledOut(counter: number, more: Record<string, unknown> = {}): Promise<string> {
  const { id } = await startOf(counter, more);
  for (const device of [north, south]) await say(id, counter, device, 'completed');
  return String(id);
}

async function signed(): Promise<Pick<Rollout, 'id' | 'state' | 'rollbackTo'>[]> {
  const target = harness.origin.repository.committed?.rollouts.signed.targets['rollouts/camera.json'];
  const response = await harness.ask(`/targets/rollouts/${String(target?.hashes.sha256)}.camera.json`);
  return parseRollouts(Buffer.from(await response.arrayBuffer())).rollouts;
}

describe('the last soak', () => {
  it.each([
    ['of stages: as the others', { allAtOnce: false }, [4, 4, 4, 4]],
    ['of one stage: none', {}, [0]],
    ['of one stage that is to soak', { soakMs: 3_600_000 }, [1]],
    ['that is said', { allAtOnce: false, soakMs: 7_200_000, lastSoakMs: 3_600_000 }, [2, 2, 2, 1]],
    ['of stages after canaries', { canaries: { perSite: true } }, [4, 4]],
  ])('%s', async (_which, wanted, hours) => {
    const { plan } = await startOf(2, { ...wanted, dryRun: true });
    expect(plan).toMatchObject({
      stages: hours.map(soak => ({ soakMs: soak * 3_600_000 })),
      lastStageSoaks: true,
    });
  });

  it('comes before completion, through a restart, and late failures roll it back', async () => {
    const id = await rolledOut(2, { soakMs: 7_200_000 });
    expect(await status(id)).toMatchObject({ state: 'active', settledAt: expect.any(String) });
    await harness.restart();
    await pass(1);
    expect(await status(id)).toMatchObject({ state: 'active' });
    for (const device of [north, south]) await say(id, 2, device, 'failed');
    expect(await status(id)).toMatchObject({ state: 'rollingBack', stop: { why: 'failures' } });

    await act(id, 'abort');
    const other = await rolledOut(3, { soakMs: 7_200_000 });
    await pass(2);
    expect(await status(other)).toMatchObject({ state: 'completed' });
  });

  it('makes way for the next rollout: it is completed with its start, in one signed file', async () => {
    const id = await rolledOut(2, { soakMs: 7_200_000 });
    expect(await startOf(1)).toMatchObject({ code: 'SITECAST_DOWNGRADE_REFUSED', data: { newest: 2 } });
    const named = [{ rollout: id, version: '2.0.0' }];
    const dry = await startOf(3, { dryRun: true });
    expect(dry).toMatchObject({ supersedes: named });
    expect(dry).not.toHaveProperty('blockedBy');
    const versions = harness.origin.repository.versions();
    const next = await startOf(3);
    expect(next).toMatchObject({ httpStatus: 201, supersedes: named });
    expect(harness.origin.repository.versions()?.rollouts).toBe((versions?.rollouts ?? 0) + 1);
    expect(await signed()).toMatchObject([
      { id, state: 'completed' },
      { id: next.id, state: 'active' },
    ]);
    expect(await status(id)).toMatchObject({
      state: 'completed',
      changes: [{ action: 'rollout.start' }, { action: 'rollout.complete', by: 'test' }],
    });
    expect(audited.slice(-2)).toMatchObject([
      {
        action: 'rollout.complete',
        by: 'test',
        subject: `rollout:${id}`,
        details: { supersededBy: next.id },
      },
      { action: 'rollout.start' },
    ]);
    expect(told.slice(-2)).toEqual([`rollout.completed ${id}`, `rollout.started ${String(next.id)}`]);
    await harness.restart();
    expect(await status(id)).toMatchObject({ state: 'completed' });
  });

  it.each(['confirming', 'blocked'] as const)(
    'is neither delayed nor restarted by a device that reports something else after its success: %s',
    async earlier => {
      const id = await rolledOut(2, { soakMs: 7_200_000 });
      const { settledAt } = await status(id);
      await pass(1);
      await say(id, 2, north, earlier);
      expect(await status(id)).toMatchObject({ settledAt, figures: { well: 2 } });
      await harness.restart();
      expect(await startOf(3, { dryRun: true })).toMatchObject({ supersedes: [{ rollout: id }] });
      await say(id, 2, north, 'completed');
      await say(id, 2, north, earlier);
      await pass(1);
      expect(await status(id)).toMatchObject({ state: 'completed' });
    },
  );

  it('starts over for a device with a power loss: it must succeed again', async () => {
    const id = await rolledOut(2, { soakMs: 7_200_000, maxFailuresBasisPoints: 10_000 });
    await say(id, 2, north, 'failed', 'powerLoss');
    await say(id, 2, north, 'confirming');
    expect(await status(id)).toMatchObject({ figures: { well: 1, running: 1 } });
    await say(id, 2, north, 'completed');
    expect(await status(id)).toMatchObject({ figures: { well: 2 } });
  });

  it('does not make way once a device fell back, or while it is paused', async () => {
    const id = await rolledOut(2, { soakMs: 7_200_000, maxFailuresBasisPoints: 10_000 });
    await act(id, 'pause');
    expect(await startOf(3)).toMatchObject({ code: 'SITECAST_ROLLOUT_OVERLAPS' });
    await act(id, 'resume');
    await say(id, 2, north, 'failed');
    expect(await startOf(3)).toMatchObject({ code: 'SITECAST_ROLLOUT_OVERLAPS' });
    await act(id, 'rollback');
    expect(await startOf(3)).toMatchObject({
      code: 'SITECAST_ROLLOUT_OVERLAPS',
      hint: `End it first: \`sitecast rollout abort ${id}\`.`,
    });
  });
});

describe('a rollout that has ended', () => {
  it.each(['completed', 'aborted'])(
    '%s can be rolled back, which concerns the devices with its release',
    async how => {
      const { id } = await startOf(2);
      await say(id, 2, north, 'completed');
      if (how === 'completed') await say(id, 2, south, 'completed');
      else await act(id, 'abort');
      const having = how === 'completed' ? 2 : 1;
      expect(await status(id)).toMatchObject({ state: how });
      expect(await preview(id, 'rollback')).toMatchObject({ httpStatus: 200, touches: having });
      const back = await act(id, 'rollback');
      expect(back).toMatchObject({ httpStatus: 200, state: 'rollingBack' });
      expect(await act(id, 'rollback')).toEqual(back);
      expect(await signed()).toMatchObject([{ id, state: 'rollingBack' }]);
      expect(audited.at(-1)).toMatchObject({ action: 'rollout.rollback', details: { from: how } });
      expect(told.at(-1)).toBe(`rollout.rollingBack ${String(id)}`);
      expect(await status(id)).toMatchObject({ figures: { well: having } });
      await harness.restart();
      expect(await status(id)).toMatchObject({ state: 'rollingBack', figures: { well: having } });
      await say(id, 2, north, 'rolledBack', 'ordered');
      expect(await status(id)).toMatchObject({ figures: { well: having - 1, returned: 1, failed: 0 } });
      expect(await act(id, 'abort')).toMatchObject({ state: 'aborted' });
      expect(
        harness.store && (await harness.store.entries('cohort')[Symbol.asyncIterator]().next()).done,
      ).toBe(true);
    },
  );

  it('can be rolled back to a chosen release, not below the floor', async () => {
    await rolledOut(2);
    const id = await rolledOut(3);
    expect(await act(id, 'rollback', { to: '1.0.0' })).toMatchObject({
      state: 'rollingBack',
      rollbackTo: { counter: 1 },
    });
    expect(await signed()).toMatchObject([{}, { id, rollbackTo: { counter: 1, version: '1.0.0' } }]);
    await act(id, 'abort');
    harness.operator.next();
    const file = harness.operator.products.get('camera');
    if (!file) throw new Error('no camera');
    harness.operator.setProduct({ ...file, floor: { counter: 2 } });
    await harness.operator.uploadFiles();
    await harness.operator.submit();
    const below = {
      httpStatus: 409,
      code: 'SITECAST_RELEASE_BELOW_FLOOR',
      hint: expect.stringContaining('`sitecast release list camera`'),
    };
    expect(await preview(id, 'rollback&to=1.0.0')).toMatchObject(below);
    expect(await act(id, 'rollback', { to: '1.0.0' })).toMatchObject(below);
  });

  it('is not rolled back if a newer rollout keeps devices from obeying; the hint names the act that rolls back', async () => {
    const id = await rolledOut(2);
    const newer = await rolledOut(3);
    expect(await status(id)).toMatchObject({ acts: ['abort'] });
    expect(await status(newer)).toMatchObject({ acts: ['abort', 'rollback'] });
    const refused = {
      httpStatus: 409,
      code: 'SITECAST_ROLLOUT_SUPERSEDED',
      hint: expect.stringContaining(`\`sitecast rollout rollback ${newer}\``),
      data: { rollout: newer, state: 'completed' },
    };
    expect(await preview(id, 'rollback')).toMatchObject(refused);
    expect(await act(id, 'rollback')).toMatchObject(refused);
    await act(newer, 'rollback');
    expect(await act(id, 'rollback')).toMatchObject({
      code: 'SITECAST_ROLLOUT_SUPERSEDED',
      hint: expect.stringContaining(`\`sitecast rollout abort ${newer}\``),
    });
    await act(newer, 'abort');
    // No device reports that it has this release: they run another one.
    expect(await preview(id, 'rollback')).toMatchObject({ code: 'SITECAST_NOTHING_TO_ROLL_BACK' });
    for (const device of [north, south]) await say(newer, 3, device, 'rolledBack', 'ordered');
    expect(await preview(id, 'rollback')).toMatchObject({ touches: 2 });
  });
});

describe('a rollback that could change nobody', () => {
  it.each([
    ['completed', 'whose devices had its release before'],
    ['aborted', 'that reached no device'],
  ])('is neither offered nor begun for a rollout that is %s, %s', async state => {
    await rolledOut(2);
    const { id } = await (state === 'completed'
      ? startOf(2)
      : startOf(3, { match: { hardware: ['rpi4'], sites: ['east'] }, allowUnknown: true }));
    if (state === 'aborted') await act(id, 'abort');
    expect(await status(id)).toMatchObject({ state, acts: state === 'completed' ? ['abort'] : [] });
    for (const body of [{}, { to: '1.0.0' }])
      expect(await act(id, 'rollback', body)).toMatchObject({
        httpStatus: 409,
        code: 'SITECAST_NOTHING_TO_ROLL_BACK',
        hint: expect.stringContaining('--allow-downgrade'),
      });
    expect(await preview(id, 'rollback')).toMatchObject({ code: 'SITECAST_NOTHING_TO_ROLL_BACK' });
    expect(await status(id)).toMatchObject({ state });
  });
});

describe('the preview of an act', () => {
  it('is refused if the act would be refused', async () => {
    const { id } = await startOf(2, { onFailure: 'pause' });
    expect(await preview(id, 'advance')).toMatchObject({ code: 'SITECAST_ROLLOUT_LAST_STAGE' });
    await say(id, 2, north, 'failed');
    expect(await preview(id, 'resume&acknowledge=false')).toMatchObject({
      code: 'SITECAST_ACKNOWLEDGE_NEEDED',
    });
    // 0.1.0 asks in this way, without saying whether failures were acknowledged.
    for (const query of ['resume', 'resume&acknowledge=true'])
      expect(await preview(id, query)).toMatchObject({ httpStatus: 200, failed: 1 });
    await act(id, 'rollback');
    for (const name of ['pause', 'resume', 'advance', 'complete'])
      expect(await preview(id, name)).toMatchObject({ httpStatus: 409, code: 'SITECAST_ROLLOUT_STATE' });
    await act(id, 'abort');
    expect(await preview(id, 'retry')).toMatchObject({ code: 'SITECAST_ROLLOUT_ENDED' });
    expect(await preview(id, 'abort')).toMatchObject({ httpStatus: 200, touches: 0 });
  });
});

describe('a rollback', () => {
  const release = { counter: 2, version: '2.0.0' };
  const before = { counter: 1, version: '1.0.0' };
  const says = async (
    id: unknown,
    device: TestMember,
    state: DeviceState,
    booted = release,
    code?: string,
  ): Promise<void> => {
    await device.report({
      state,
      release: booted,
      booted: { slot: 'B', release: booted },
      ...(code !== undefined && { reason: { code, message: '' } }),
      rollout: { id: String(id), attempt: 1 },
    });
    await harness.origin.rollouts.checkCompletion();
  };

  it('counts devices that wait for their turn, and late ones, until each is back or has reported that it can’t', async () => {
    const { id } = await startOf(2);
    await says(id, north, 'completed');
    // The device never got the release, so there is nothing to undo.
    await says(id, south, 'waiting', before);
    const late = await harness.device('north');
    await says(id, late, 'completed');
    const other = await harness.device('north');
    await says(id, other, 'completed');
    expect(await preview(id, 'rollback')).toMatchObject({ touches: 3 });
    await act(id, 'rollback');
    expect(await status(id)).toMatchObject({ back: { left: 3, lateLeft: 2, stuck: 0, returned: 0 } });
    await says(id, north, 'waiting');
    await says(id, late, 'checking');
    expect(await status(id)).toMatchObject({ back: { left: 3, lateLeft: 2 } });
    expect(await preview(id, 'abort')).toMatchObject({ touches: 3 });
    await harness.restart();
    await says(id, other, 'blocked', release, 'SITECAST_ROLLBACK_IMPOSSIBLE');
    await says(id, late, 'rolledBack', before, 'ordered');
    expect(await status(id)).toMatchObject({ back: { left: 1, lateLeft: 0, stuck: 1, returned: 1 } });
    await says(id, north, 'rolledBack', before, 'ordered');
    expect(await status(id)).toMatchObject({ back: { left: 0, stuck: 1, returned: 2 } });
    expect(await preview(id, 'abort')).toMatchObject({ touches: 0 });
    expect(await preview(id, 'rollback&to=1.0.0')).toMatchObject({ touches: 1 });
    await act(id, 'abort');
    expect(await status(id)).not.toHaveProperty('back');
  });

  it('does not wait for a revoked device, and does not show it as waiting', async () => {
    const { id } = await startOf(2);
    await says(id, north, 'completed');
    await says(id, south, 'completed');
    await act(id, 'rollback');
    await says(id, north, 'rolledBack', before, 'ordered');
    await says(id, south, 'waiting');
    for (const { id: device } of [north, south])
      await harness.call('POST', `/api/v1/devices/${device}/revoke`);
    await harness.origin.rollouts.reconcile();
    expect(await status(id)).toMatchObject({ back: { left: 0 }, counts: { rolledBack: 1, revoked: 1 } });
    const shown = await harness.call('GET', path(id, '?state=revoked'));
    expect(shown).toMatchObject({ devices: [{ id: south.id, state: 'revoked', at: expect.any(String) }] });
  });
});

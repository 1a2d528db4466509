import { parseRollouts, type Rollout } from '@sitecast/shared/fleet';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import type { Audit, AuditEvent } from '../audit/audit.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { MemoryTables } from '../testing/memory-tables.ts';

let harness: FleetHarness;
let audited: AuditEvent[];

beforeEach(async () => {
  audited = [];
  const store = new MemoryTables();
  const audit: Audit = {
    record: async (...events) => {
      audited.push(...events);
    },
  };
  const disks = (path: string) => ({ ...testDisk(path), audit });
  harness = await FleetHarness.open(disks, store);
  for (let releases = 1; releases < 3; releases += 1) await harness.publishNext();
});
afterEach(() => harness.close());

const path = (id: unknown, rest = '') => `/api/v1/rollouts/${String(id)}${rest}`;
const status = (id: unknown) => harness.call('GET', path(id));
const act = (id: unknown, name: string, body?: unknown) => harness.call('POST', path(id, `/${name}`), body);

async function signed(id: unknown): Promise<Rollout> {
  const target = harness.origin.repository.committed?.rollouts.signed.targets['rollouts/camera.json'];
  const response = await harness.ask(`/targets/rollouts/${String(target?.hashes.sha256)}.camera.json`);
  const found = parseRollouts(Buffer.from(await response.arrayBuffer())).rollouts.find(one => one.id === id);
  if (!found) throw new Error('not signed');
  return found;
}

function raiseFloor(counter: number): Promise<Record<string, unknown>> {
  const { operator } = harness;
  operator.next();
  const file = operator.products.get('camera');
  if (!file) throw new Error('no camera');
  operator.setProduct({ ...file, floor: { counter } });
  return operator.uploadFiles().then(() => operator.submit());
}

describe('an operator', () => {
  it('may roll devices back to a chosen release, which is signed and survives a restart', async () => {
    const [device, away] = [await harness.device(), await harness.device()];
    const { id } = await harness.startRollout({ counter: 3 });
    const release = { counter: 3, version: '3.0.0' };
    const rollout = { id: String(id), attempt: 1 };
    await device.report({ state: 'completed', rollout, release, booted: { slot: 'B', release } });
    const back = { counter: 1, version: '1.0.0' };
    expect(await harness.call('GET', path(id, '/preview?act=rollback&to=1.0.0'))).toMatchObject({
      touches: 1,
      rollbackTo: back,
      what: expect.stringContaining('go back to 1.0.0'),
    });
    for (let times = 0; times < 2; times += 1)
      expect(await act(id, 'rollback', { to: '1.0.0' })).toMatchObject({
        httpStatus: 200,
        state: 'rollingBack',
        rollbackTo: back,
      });
    expect(await signed(id)).toMatchObject({ state: 'rollingBack', rollbackTo: back });
    expect(audited.filter(({ action }) => action === 'rollout.rollback')).toMatchObject([
      { by: 'test', details: { rollbackTo: back } },
    ]);
    await harness.restart();
    expect(await status(id)).toMatchObject({ state: 'rollingBack', rollbackTo: back });
    // A device that could not go there gets another target.
    const reason = { code: 'SITECAST_HARDWARE_MISMATCH', message: 'not for this board' };
    expect(await device.report({ state: 'blocked', rollout, release: back, reason })).toMatchObject({
      status: 200,
    });
    expect(await status(id)).toMatchObject({ figures: { blocked: 1 } });
    expect(await harness.call('GET', path(id, '/preview?act=rollback&to=2.0.0'))).toMatchObject({
      touches: 1,
    });
    expect(await act(id, 'rollback', { to: '2.0.0' })).toMatchObject({ rollbackTo: { counter: 2 } });
    expect(await act(id, 'retry')).toMatchObject({ state: 'active', attempt: 2 });
    expect(await signed(id)).not.toHaveProperty('rollbackTo');
    expect(away.id).not.toBe(device.id);
  });

  it.each([
    ['that nobody published', '9.0.0', 404, 'SITECAST_RELEASE_UNKNOWN'],
    ['that is the rollout’s own', '3.0.0', 400, 'SITECAST_ROLLBACK_TARGET'],
    ['below the floor', '1.0.0', 409, 'SITECAST_RELEASE_BELOW_FLOOR'],
  ])('rolls no device back to a release %s', async (_which, to, httpStatus, code) => {
    await harness.device();
    const { id } = await harness.startRollout({ counter: 3 });
    const raised = await raiseFloor(2);
    expect(raised).toMatchObject({ httpStatus: 200 });
    expect(await act(id, 'rollback', { to })).toMatchObject({ httpStatus, code });
    expect(await harness.call('GET', path(id, `/preview?act=rollback&to=${to}`))).toMatchObject({ code });
    expect(await signed(id)).toMatchObject({ state: 'active' });
    for (const name of ['pause', 'abort'])
      expect(await act(id, name, { to: '2.0.0' })).toMatchObject({ httpStatus: 400 });
  });
});

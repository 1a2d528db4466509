import { delegatedSigners, parseMetadata } from '@sitecast/shared/trust';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type RunningOrigin, startOrigin } from '../serve.ts';
import { acknowledgementsIn, assignmentIn, TestMember } from '../testing/device.ts';
import { imageOf, TestOperator } from '../testing/operator.ts';
import { testLog } from '../testing/origin.ts';
import { randomChunks, temporaryDirectory } from '../testing/setup.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let origin: RunningOrigin;
let operator: TestOperator;

const ask = (path: string, init?: RequestInit) => fetch(origin.url + path, init);

async function start(): Promise<void> {
  const settings = {
    dataDirectory: directory.path,
    listen: { host: '127.0.0.1', port: 0 },
    stagingTtlMs: 86_400_000,
    maxStagedBytes: 2 ** 30,
    maxReportBytes: 2 ** 30,
    reserveBytes: 0,
  };
  origin = await startOrigin(settings, { log: testLog() });
}

beforeEach(async () => {
  directory = temporaryDirectory();
  await start();
  const token = (await readFile(join(directory.path, 'admin.token'), 'utf8')).trim();
  operator = new TestOperator(ask, token);
  await operator.initialise();
  await operator.publish('camera', imageOf(...randomChunks(3)));
});

afterEach(async () => {
  await origin.close();
  await directory.remove();
});

const post = (path: string, value: unknown) =>
  operator.json(path, {
    method: 'POST',
    body: JSON.stringify(value),
    headers: { 'content-type': 'application/json' },
  });

async function joinToken(wanted: Record<string, unknown>): Promise<string> {
  const { token } = await post('/api/v1/join-tokens', {
    origin: origin.url,
    expiresAt: new Date(Date.now() + 3_600_000).toISOString(),
    ...wanted,
  });
  return String(token);
}

const signers = () => {
  const found = delegatedSigners(operator.prepared().delegations, 'rollouts');
  if (!found) throw new Error('no rollouts role');
  return found;
};

it('enrols a device through its gateway, rolls out to it, receives its reports, and keeps all that', async () => {
  const gateway = new TestMember(ask, Date.now, 'gateway');
  const device = new TestMember(ask, Date.now);
  const letIn = await gateway.enrol(await joinToken({ kind: 'gateway' }), { site: 'north' });
  expect(letIn).toMatchObject({ status: 200 });
  const enrolled = await device.enrol(await joinToken({ kind: 'device' }), {}, gateway);
  expect(assignmentIn(enrolled, signers())).toMatchObject({ id: device.id, site: 'north', serial: 1 });

  const rollout = await post('/api/v1/rollouts', { product: 'camera', version: '1.0.0', allAtOnce: true });
  expect(rollout).toMatchObject({ httpStatus: 201, state: 'active', total: 1, counts: { pending: 1 } });
  const id = String(rollout.id);

  const timestamp = parseMetadata(
    Buffer.from(await (await ask('/metadata/timestamp.json')).arrayBuffer()),
    'timestamp',
  );
  expect(timestamp.signed.version).toBe(3);

  const said = { rollout: { id, attempt: 1 }, release: { counter: 1, version: '1.0.0' } };
  const reports = [
    await device.next({ ...said, state: 'downloading' }),
    await device.next({ ...said, state: 'completed' }),
  ];
  const taken = await device.sendReports(reports, gateway);
  expect(taken.body.rejected).toEqual([]);
  expect(acknowledgementsIn(taken, signers())).toMatchObject([{ id: device.id, seq: 2 }]);

  await origin.close();
  await start();
  expect(await operator.json(`/api/v1/rollouts/${id}`)).toMatchObject({
    state: 'completed',
    counts: { completed: 1 },
    devices: [{ id: device.id, site: 'north', state: 'completed' }],
  });
  expect(await operator.json(`/api/v1/devices/${device.id}`)).toMatchObject({
    state: 'completed',
    last: { via: gateway.id },
    chains: [{ seq: 2 }],
  });
  const again = await device.sendReports(reports, gateway);
  expect(again.body.rejected).toEqual([]);
  expect(acknowledgementsIn(again, signers())).toMatchObject([{ seq: 2 }]);
});

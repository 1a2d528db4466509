import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Keyspace } from '@sitecast/shared/key-value';
import { afterAll, afterEach, expect, it } from 'vitest';
import {
  memoryLog,
  removeTemporaryDirectories,
  temporaryDirectory,
  TestDevice,
  GatewayHarness,
  until,
} from './testing/harness.ts';
import { openDatabase } from './database.ts';
import { LEASES_CLOSED_KEY } from './devices/leases.ts';

const harness = new GatewayHarness();
afterEach(() => harness.closeAll());
afterAll(removeTemporaryDirectories);

const now = () => 1_000_000;

async function filled(data: string): Promise<void> {
  const store = await openDatabase(data, { now, log: memoryLog() });
  const records = new Keyspace(store, 'room!');
  for (let at = 0; at < 50; at += 1)
    await records.commit([{ key: `k${at}`, value: at }], { isDurable: at % 2 === 0 });
  await store.close();
}

function fileOf(data: string, kind: RegExp): string {
  const name = readdirSync(join(data, 'state')).find(candidate => kind.test(candidate));
  if (name === undefined) throw new Error(`there is no ${kind.source}`);
  return join(data, 'state', name);
}

it.each<[string, (data: string) => void]>([
  ['its log is cut', data => truncateSync(fileOf(data, /\.log$/), 900)],
  ['its log is altered', data => writeFileSync(fileOf(data, /\.log$/), Buffer.alloc(1000, 'x'))],
  ['CURRENT is gone', data => rmSync(fileOf(data, /^CURRENT$/))],
  ['MANIFEST is damaged', data => truncateSync(fileOf(data, /^MANIFEST/), 10)],
  ['the whole of it is gone', data => rmSync(join(data, 'state'), { recursive: true })],
  ['its witness is gone', data => rmSync(join(data, 'state.witness'))],
])('continues, reports the loss, and grants no lease for a while, where %s', async (_what, damage) => {
  const data = await temporaryDirectory();
  await filled(data);
  damage(data);
  const log = memoryLog();
  const store = await openDatabase(data, { now, log });
  expect(log.lines).toMatchObject([
    {
      level: 'error',
      fields: { code: expect.stringMatching(/^SITECAST_STATE_/), detail: expect.any(String) },
      message: 'the database is damaged: the gateway goes on with what is left of it',
    },
  ]);
  expect(await new Keyspace(store, 'leases!').get(LEASES_CLOSED_KEY)).toBe(now() + 15 * 60_000);
  await store.close();
  const healthy = memoryLog();
  await (await openDatabase(data, { now, log: healthy })).close();
  expect(healthy.lines).toEqual([]);
});

it('refuses a second process on its database, and names the directory', async () => {
  const data = await temporaryDirectory();
  const store = await openDatabase(data, { now, log: memoryLog() });
  await expect(openDatabase(data, { now, log: memoryLog() })).rejects.toMatchObject({
    code: 'SITECAST_DATA_IN_USE',
    message: expect.stringContaining(data),
  });
  await store.close();
});

it('forwards every report that its lost database held, once the device sends it again', async () => {
  const { origin } = await harness.originWith(Buffer.alloc(20_000, 'x'));
  const first = await harness.gateway(origin);
  const device = new TestDevice();
  const reports = await Promise.all(Array.from({ length: 5 }, () => device.report()));
  await origin.close();
  expect(await device.post(`${first.url}/site/v1/reports`, { reports })).toMatchObject({ status: 202 });
  await first.close();
  const log = fileOf(first.settings.data, /\.log$/);
  writeFileSync(log, readFileSync(log).subarray(0, 200));

  const second = await harness.gateway(origin, { data: first.settings.data }, { isReadyFirst: false });
  expect(second.log.lines.map(({ message }) => message)).toContain(
    'the database is damaged: the gateway goes on with what is left of it',
  );
  expect(await device.post(`${second.url}/site/v1/reports`, { reports })).toMatchObject({ status: 202 });
  await origin.listen();
  await until(() => origin.records.reports.length >= 5, 'the reports to arrive');
  expect(new Set(origin.records.reports.map(({ seq }) => seq))).toEqual(new Set([1, 2, 3, 4, 5]));
});

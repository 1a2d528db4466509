import { rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AuditChainCheck, auditEntrySchema } from '@sitecast/shared/audit';
import { writeFileDurably } from '@sitecast/shared/durable';
import type { Envelope } from '@sitecast/shared/identity';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { z } from 'zod';
import { type Answer, TestMember } from './testing/device.ts';
import { temporaryDirectory } from './testing/setup.ts';
import { fillDisk, mountSmallDisk, unmount } from './testing/small-disk.ts';
import { type SpawnedOrigin, spawnOrigin } from './testing/spawned.ts';

// Each start of a process takes a second or two on a busy machine.
vi.setConfig({ testTimeout: 180_000 });

let directory: ReturnType<typeof temporaryDirectory>;
let data: string;
let filler: string;
let origin: SpawnedOrigin;
beforeEach(async context => {
  directory = temporaryDirectory();
  data = join(directory.path, 'data');
  filler = join(data, 'filler');
  if (!mountSmallDisk(data, 24)) {
    await directory.remove();
    context.skip('a small tmpfs could not be mounted: that takes root');
  }
});
afterEach(async () => {
  await origin.stop('SIGKILL');
  unmount(data);
  await directory.remove();
});

async function start(reserve: string): Promise<void> {
  origin = await spawnOrigin(data, ['--reserve', reserve, '--log-level', 'warn']);
}

const call = (method: string, path: string, value?: unknown) => origin.operator.call(method, path, value);

const makeToken = (name: string) => call('POST', '/api/v1/tokens', { name, role: 'viewer' });
const revoke = (device: TestMember) => call('POST', `/api/v1/devices/${device.id}/revoke`);
const statusOf = async (path: string) => (await fetch(origin.url + path)).status;

async function enrolDevices(count: number): Promise<TestMember[]> {
  await origin.operator.initialise();
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const wanted = { kind: 'device', site: 'north', uses: count, expiresAt, origin: origin.url };
  const { token } = await call('POST', '/api/v1/join-tokens', wanted);
  // The next process listens on another port.
  const ask = (path: string, init?: RequestInit) => fetch(origin.url + path, init);
  const devices = Array.from({ length: count }, () => new TestMember(ask, Date.now));
  for (const device of devices) expect(await device.enrol(String(token))).toMatchObject({ status: 200 });
  return devices;
}

const auditSchema = z.object({
  entries: z.array(auditEntrySchema),
  head: z.object({ seq: z.int(), hash: z.string() }),
});

/** The number of the last entry of the audit log, whose chain is valid. */
async function auditedTo(): Promise<number> {
  const { entries, head } = auditSchema.parse(await call('GET', '/api/v1/audit?limit=1000'));
  const check = new AuditChainCheck();
  for (const entry of entries) check.take(entry);
  check.end(head);
  return head.seq;
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${origin.url}/metrics`)).text();
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1]);
}

/** The log lines with a message. */
const linesAbout = (message: RegExp): object[] =>
  origin
    .log()
    .split('\n')
    .filter(line => line !== '')
    .map((line): { msg: string } => JSON.parse(line))
    .filter(({ msg }) => message.test(msg));

async function longReports(device: TestMember, count: number): Promise<Envelope[]> {
  const reason = { code: 'healthFailed', message: 'x'.repeat(1000) };
  const reports = [];
  while (reports.length < count) reports.push(await device.next({ state: 'failed', reason }));
  return reports;
}

/** Sends reports, so many at a time, until they are refused. */
async function untilRefused(device: TestMember, count: number): Promise<Answer> {
  for (;;) {
    const answer = await device.sendReports(await longReports(device, count));
    if (answer.status !== 200) return answer;
  }
}

const FULL = { status: 507, body: { code: 'SITECAST_NO_SPACE' } };

it('loses nothing that it acknowledged, once there is room again, and keeps revoked members out', async () => {
  await start('0');
  const [device, revoked] = await enrolDevices(2);
  if (!device || !revoked) throw new Error('no devices');
  fillDisk(filler);
  // More than the last page of the log has room for.
  const reason = { code: 'healthFailed', message: 'x'.repeat(1000) };
  const refused: Envelope[] = [];
  while (refused.length < 5) refused.push(await device.next({ state: 'failed', reason }));
  // Operators are told where, and how much is free; devices aren't.
  const forDevice = await device.sendReports(refused);
  expect(forDevice).toMatchObject(FULL);
  expect(JSON.stringify(forDevice)).not.toContain(directory.path);
  expect(await makeToken('refused')).toMatchObject({
    httpStatus: 507,
    code: 'SITECAST_NO_SPACE',
    detail: expect.stringMatching(
      new RegExp(`^the disk of the origin is full: .* are free on the file system of ${data}`),
    ),
  });
  const file = join(data, 'file');
  await expect(writeFileDurably(file, Buffer.alloc(65_536))).rejects.toMatchObject({
    code: 'ENOSPC',
    path: file,
    message: expect.stringContaining(file),
  });
  expect(await revoke(revoked)).toMatchObject({ httpStatus: 507 });
  expect([await statusOf('/healthz'), await statusOf('/readyz')]).toEqual([200, 503]);
  expect(await metric('sitecast_database_writable')).toBe(0);
  expect(await call('GET', '/api/v1/repository')).toMatchObject({
    warnings: [{ code: 'SITECAST_NO_SPACE', message: expect.stringContaining('Make room') }],
  });
  // Existing data can be read.
  expect(await call('GET', `/api/v1/devices/${device.id}`)).toMatchObject({ httpStatus: 200, chains: [] });

  rmSync(filler);
  await expect.poll(() => statusOf('/readyz'), { timeout: 30_000 }).toBe(200);
  expect(await device.sendReports(refused)).toMatchObject({ status: 200 });
  for (let count = 0; count < 9; count += 1) expect(await device.report()).toMatchObject({ status: 200 });
  for (const name of ['a', 'b', 'c']) expect(await makeToken(name)).toMatchObject({ httpStatus: 201 });
  expect(await revoke(revoked)).toMatchObject({ httpStatus: 200 });
  expect(await revoked.report()).toMatchObject({ status: 403 });
  const audited = await auditedTo();
  expect(await metric('sitecast_database_reopened_total')).toBe(1);
  // A failure that an operator can cure is a line with a code, not a stack trace. A change of readiness is one line, however often it is
  // queried.
  expect(origin.log()).not.toContain('stack');
  expect(linesAbout(/^not ready: /)).toEqual([expect.objectContaining({ code: 'SITECAST_NO_SPACE' })]);
  const refusals = linesAbout(/^a request was refused/);
  expect(refusals).toContainEqual(
    expect.objectContaining({ path: '/api/v1/tokens', code: 'SITECAST_NO_SPACE' }),
  );
  // Devices report again and again.
  expect(JSON.stringify(refusals)).not.toContain('reports');
  await origin.stop('SIGKILL');

  await start('0');
  expect(await call('GET', `/api/v1/devices/${device.id}`)).toMatchObject({
    chains: [{ seq: 14 }],
    anomalies: [],
  });
  const { tokens } = z
    .object({ tokens: z.array(z.object({ name: z.string() })) })
    .parse(await call('GET', '/api/v1/tokens'));
  expect(tokens.map(({ name }) => name).sort()).toEqual(['a', 'b', 'c', 'first admin']);
  expect(await revoked.clone().report()).toMatchObject({ status: 403 });
  expect(await auditedTo()).toBe(audited);
});

it('ends on SIGTERM with a full disk, and reports what it couldn’t save', async () => {
  await start('0');
  const [device] = await enrolDevices(1);
  if (!device) throw new Error('no device');
  fillDisk(filler);
  expect(await untilRefused(device, 1)).toMatchObject(FULL);
  expect(await origin.stop('SIGTERM')).toBe(1);
  expect(origin.log()).toContain('SITECAST_STOP_INCOMPLETE');
});

it('lets no device fill the disk: reports leave a reserve for the work of operators', async () => {
  await start('21MiB');
  const [greedy, other] = await enrolDevices(2);
  if (!greedy || !other) throw new Error('no devices');
  // A device's hourly budget is larger than the space that is left.
  const left = (await metric('sitecast_disk_free_bytes')) - (await metric('sitecast_disk_reserve_bytes'));
  writeFileSync(filler, Buffer.alloc(left - 256 * 1024));
  expect(await untilRefused(greedy, 50)).toMatchObject(FULL);
  expect(await origin.operator.uploadFile(Buffer.from('x'))).toMatchObject({ status: 507 });
  expect(await statusOf('/readyz')).toBe(503);
  expect(await metric('sitecast_database_writable')).toBe(1);
  expect(await metric('sitecast_disk_free_bytes')).toBeLessThan(await metric('sitecast_disk_reserve_bytes'));

  expect(await makeToken('a')).toMatchObject({ httpStatus: 201 });
  expect(await revoke(greedy)).toMatchObject({ httpStatus: 200 });
  expect(await greedy.report()).toMatchObject({ status: 403 });
  expect(await other.report()).toMatchObject(FULL);
  expect(await origin.stop('SIGTERM')).toBe(0);
});

it('reports how much room it needs, and where, if it was killed while the disk was full; then it starts', async () => {
  await start('0');
  const [device] = await enrolDevices(1);
  if (!device) throw new Error('no device');
  for (let count = 0; count < 2000; count += 200) await device.sendReports(await longReports(device, 200));
  fillDisk(filler);
  await untilRefused(device, 1);
  await origin.stop('SIGKILL');
  const refused = await start('0').catch((error: unknown) => String(error));
  expect(refused).toContain(`MiB in ${data}/state, and 0 MiB are free there (SITECAST_NO_SPACE)`);
  const needed = Number(/opening the database takes about (\d+) MiB/.exec(String(refused))?.[1]);
  expect(needed).toBeGreaterThan(1);
  truncateSync(filler, statSync(filler).size - needed * 2 ** 20);
  await start('0');
  expect(await call('GET', `/api/v1/devices/${device.id}`)).toMatchObject({ httpStatus: 200 });
});

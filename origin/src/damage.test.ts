import { spawn } from 'node:child_process';
import { cpSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, expect, it, vi } from 'vitest';
import { z } from 'zod';
import { TestMember } from './testing/device.ts';
import { startOrigin } from './serve.ts';
import { recoverFrom } from './recover.ts';
import { imageOf, TestOperator } from './testing/operator.ts';
import { testLog } from './testing/origin.ts';
import { randomChunks, temporaryDirectory } from './testing/setup.ts';
import { type SpawnedOrigin, spawnOrigin } from './testing/spawned.ts';

// Each start of a process takes a second or two on a busy machine.
vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });

const BIN = fileURLToPath(new URL('../bin/sitecast-origin.js', import.meta.url));
const DEVICES = 11;

const directory = temporaryDirectory();
/** The data of a killed origin, of which each test gets a copy. */
const sample = join(directory.path, 'sample');
let data: string;
let copies = 0;
const devices: TestMember[] = [];
let origin: SpawnedOrigin;

beforeAll(async () => {
  origin = await spawnOrigin(sample);
  const { operator } = origin;
  await operator.initialise();
  await operator.publishOk('camera', imageOf(...randomChunks(2)));
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const wanted = { kind: 'device', site: 'north', uses: DEVICES, expiresAt, origin: 'http://origin' };
  const { token } = await call('POST', '/api/v1/join-tokens', wanted);
  const ask = (path: string, init?: RequestInit) => fetch(origin.url + path, init);
  for (let count = 0; count < DEVICES; count += 1) {
    const device = new TestMember(ask, Date.now);
    devices.push(device);
    const { status } = await device.enrol(String(token));
    if (status !== 200) throw new Error('not enrolled');
  }
  // The next origin begins with all of that in a table, and a new log.
  await origin.stop();
  origin = await spawnOrigin(sample);
  await call('POST', `/api/v1/devices/${devices[0]?.id}/revoke`);
  await origin.stop('SIGKILL');
});
beforeEach(() => {
  copies += 1;
  data = join(directory.path, `copy-${copies}`);
  cpSync(sample, data, { recursive: true });
});
afterAll(async () => {
  await origin.stop('SIGKILL');
  await directory.remove();
});

const call = (method: string, path: string, value?: unknown) => origin.operator.call(method, path, value);

function fileOf(kind: RegExp): string {
  const name = readdirSync(join(data, 'state')).find(candidate => kind.test(candidate));
  if (name === undefined) throw new Error(`there is no ${kind.source}`);
  return join(data, 'state', name);
}

function flipInMidst(path: string): void {
  const bytes = readFileSync(path);
  const at = bytes.length >> 1;
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  writeFileSync(path, bytes);
}

async function run(...args: string[]): Promise<{ exitCode: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [BIN, ...args, '--data', data], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const texts = { out: '', err: '' };
  child.stdout.on('data', (bytes: Buffer) => (texts.out += bytes.toString()));
  child.stderr.on('data', (bytes: Buffer) => (texts.err += bytes.toString()));
  const exitCode = await new Promise<number | null>(resolve => child.once('close', code => resolve(code)));
  return { exitCode, ...texts };
}

async function expectRefused(code: string): Promise<void> {
  const { exitCode, err } = await run('serve', '--listen', '127.0.0.1:0', '--log-level', 'silent');
  expect(err).toContain(`(${code})`);
  expect(err).toContain(`sitecast-origin recover --data ${data}`);
  expect(exitCode).toBe(1);
}

const recoveredSchema = z.object({
  database: z.object({ lost: z.string().optional(), damagedFiles: z.array(z.string()) }),
  revokedAgain: z.array(z.string()),
  adminTokenPath: z.string().optional(),
});

/** Recovers, and starts the origin again. */
async function recoverAndStart(): Promise<z.infer<typeof recoveredSchema>> {
  const { out, err } = await run('recover', '--json');
  expect(err).toBe('');
  origin = await spawnOrigin(data, ['--log-level', 'error']);
  return recoveredSchema.parse(JSON.parse(out));
}

/** Revoked members stay revoked, and the audit log records the recovery. */
async function expectGoesOn(): Promise<void> {
  const [revoked, ...others] = devices;
  expect(await revoked?.clone().report()).toMatchObject({ status: 403 });
  const members = z.object({ members: z.array(z.object({ id: z.string(), state: z.string() })) });
  const { members: left } = members.parse(await call('GET', '/api/v1/devices?limit=1000'));
  const active = left.filter(({ state }) => state !== 'revoked').map(({ id }) => id);
  expect(others.map(({ id }) => id)).toEqual(expect.arrayContaining(active));
  const { entries } = z
    .object({ entries: z.array(z.object({ action: z.string() })) })
    .parse(await call('GET', '/api/v1/audit?limit=1000'));
  expect(entries.map(({ action }) => action)).toContain('origin.recover');
}

it('a database whose log has a flipped bit is reported, and the origin does not start; after recover it continues with what is left', async () => {
  flipInMidst(fileOf(/\.log$/));
  await expectRefused('SITECAST_STATE_LOST');
  const recovered = await recoverAndStart();
  expect(recovered).toMatchObject({
    database: {
      lost: expect.stringMatching(/are missing: .*It knew 11 devices and gateways, 1 API tokens, /),
    },
  });
  expect(recovered.adminTokenPath).toBeUndefined();
  await expectGoesOn();
  await origin.stop();
});

it('a missing database causes no new admin’s token over a published repository, before recover makes one', async () => {
  const before = readFileSync(join(data, 'admin.token'), 'utf8');
  for (const name of ['state', 'state.witness']) rmSync(join(data, name), { recursive: true });
  await expectRefused('SITECAST_STATE_LOST');
  expect(readFileSync(join(data, 'admin.token'), 'utf8')).toBe(before);
  expect(await recoverAndStart()).toMatchObject({
    revokedAgain: [devices[0]?.id],
    adminTokenPath: join(data, 'admin.token'),
  });
  expect(readFileSync(join(data, 'admin.token'), 'utf8')).not.toBe(before);
  await expectGoesOn();
  await origin.stop();
});

const settings = () => ({
  dataDirectory: data,
  listen: { host: '127.0.0.1', port: 0 },
  stagingTtlMs: 3_600_000,
  maxStagedBytes: 2 ** 30,
  maxReportBytes: 2 ** 30,
  reserveBytes: 0,
});

it.each<[string, string, () => void]>([
  ['its log is gone, with the revocation in it', 'SITECAST_STATE_LOST', () => rmSync(fileOf(/\.log$/))],
  [
    'its log is cut in half',
    'SITECAST_STATE_LOST',
    () => truncateSync(fileOf(/\.log$/), statSync(fileOf(/\.log$/)).size >> 1),
  ],
  ['a table is altered', 'SITECAST_STATE_DAMAGED', () => flipInMidst(fileOf(/\.ldb$/))],
  ['CURRENT is damaged', 'SITECAST_STATE_DAMAGED', () => writeFileSync(fileOf(/^CURRENT$/), 'x')],
  ['MANIFEST is damaged', 'SITECAST_STATE_DAMAGED', () => flipInMidst(fileOf(/^MANIFEST/))],
])('a damaged database is handled in the same way where %s', async (_what, code, damage) => {
  damage();
  const log = testLog();
  await expect(startOrigin(settings(), { log })).rejects.toMatchObject({
    code,
    hint: expect.stringContaining(`sitecast-origin recover --data ${data}`),
  });
  const asked = { dataDirectory: data, from: [], acceptedDay: undefined, damagedOnly: false };
  const recovered = await recoverFrom(asked);
  if (!('database' in recovered)) throw new Error('that brought back files alone');
  const { revokedAgain, adminTokenPath } = recovered;
  expect([[], [devices[0]?.id]]).toContainEqual(revokedAgain);
  const running = await startOrigin(settings(), { log });
  const token = readFileSync(adminTokenPath ?? join(data, 'admin.token'), 'utf8').trim();
  const ask = (path: string, init?: RequestInit) => fetch(running.url + path, init);
  origin = { ...origin, url: running.url, operator: new TestOperator(ask, token) };
  await expectGoesOn();
  await running.close();
});

it('an origin does not start after a recovery that did not end, and the next recovery still reports the loss', async () => {
  truncateSync(fileOf(/\.log$/), statSync(fileOf(/\.log$/)).size >> 1);
  const log = testLog();
  const asked = { dataDirectory: data, acceptedDay: undefined, damagedOnly: false };
  // Nothing listens on this port.
  await expect(recoverFrom({ ...asked, from: ['http://127.0.0.1:1'] })).rejects.toMatchObject({
    code: 'SITECAST_MIRRORS_UNREAD',
  });
  await expect(startOrigin(settings(), { log })).rejects.toMatchObject({
    code: 'SITECAST_RECOVERY_UNFINISHED',
    message: expect.stringContaining('are missing'),
  });
  const recovered = await recoverFrom({ ...asked, from: [] });
  if (!('database' in recovered)) throw new Error('that brought back files alone');
  expect(recovered.database.lost).toContain('are missing');
  await (await startOrigin(settings(), { log })).close();
});

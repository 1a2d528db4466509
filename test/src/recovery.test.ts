import { randomBytes } from 'node:crypto';
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';

let testbed: Testbed;
let origin: Server;
let gateway: Server;
let port = '0';

beforeEach(async () => {
  testbed = await Testbed.open();
  port = '0';
  await startOrigin();
  await testbed.foundRepository(origin);
  await operate('token', 'create', '--join', '--kind', 'gateway', '--site', 'north', '--out', 'gw.token');
  await operate('token', 'create', '--join', '--kind', 'device', '--uses', '9', '--out', 'device.token');
  const args = ['serve', '--data', 'gw', '--token-file', 'gw.token', '--poll', '1s', ...quiet('0')];
  gateway = await testbed.serve('sitecast-gateway', args);
  for (const slot of ['a', 'b']) await writeFile(testbed.path(`${slot}.img`), '');
});
afterEach(() => testbed.close());

const quiet = (at: string) => ['--listen', `127.0.0.1:${at}`, '--log-level', 'error'];
const operate = (...args: string[]) => testbed.json('sitecast', args);

async function startOrigin(): Promise<void> {
  origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet(port)]);
  port = /:(\d+)$/.exec(origin.url)?.[1] ?? '0';
}

async function publish(version: string): Promise<void> {
  await writeFile(testbed.path(version), randomBytes(300_000), { flag: 'a' });
  await publishAgain(version);
}

const publishAgain = (version: string) =>
  operate('release', 'publish', version, '--product', 'camera', '--version', version, '--hardware', 'rpi4');

async function rollOut(version: string): Promise<string> {
  const { id } = await operate('rollout', 'start', 'camera', version, '--all-at-once');
  return String(id);
}

async function update(): Promise<Record<string, unknown>> {
  const newest = await versionNow();
  await testbed.until(() => gatewayHas(newest));
  const flags = `--data device --gateway ${gateway.url} --token-file device.token --product camera --hardware rpi4 --slot-a a.img --slot-b b.img --log-level error`;
  const { stdout, stderr } = await testbed.run('sitecast-agent', ['update', ...flags.split(' '), '--json']);
  if (stdout === '') throw new Error(stderr);
  return JSON.parse(stdout);
}

const gatewayHas = (version: number): Promise<boolean> =>
  fetch(`${gateway.url}/metadata/timestamp.json`).then(
    async response => response.ok && JSON.parse(await response.text()).signed.version >= version,
    () => false,
  );

/** The version of the timestamp at the origin. */
async function versionNow(): Promise<number> {
  const text = await (await fetch(`${origin.url}/metadata/timestamp.json`)).text();
  return JSON.parse(text).signed.version;
}

async function backUp(): Promise<void> {
  await origin.stop();
  await cp(testbed.path('origin'), testbed.path('backup'), { recursive: true });
  await startOrigin();
}

async function restore(): Promise<void> {
  await origin.stop('SIGKILL');
  await rm(testbed.path('origin'), { recursive: true });
  await cp(testbed.path('backup'), testbed.path('origin'), { recursive: true });
}

it('an origin restored from yesterday’s backup catches up with a gateway, and continues above its versions with rollouts paused', async () => {
  await publish('1.0.0');
  await rollOut('1.0.0');
  expect(await update()).toMatchObject({ state: 'completed' });
  await backUp();

  await publish('2.0.0');
  await rollOut('2.0.0');
  expect(await update()).toMatchObject({ state: 'completed' });
  // The chunks of this release exist at the origin only.
  await publish('3.0.0');
  const id = await rollOut('3.0.0');
  const seen = await versionNow();
  await testbed.until(() => gatewayHas(seen));

  await restore();
  const recovered = await testbed.json('sitecast-origin', [
    'recover',
    '--data',
    'origin',
    '--from',
    gateway.url,
  ]);
  expect(recovered).toMatchObject({
    from: gateway.url,
    releases: [
      { product: 'camera', counter: 2 },
      { product: 'camera', counter: 3 },
    ],
    lacking: [{ product: 'camera', counter: 3, version: '3.0.0' }],
    paused: [id],
  });
  await startOrigin();
  await expectToldLoss(recovered, id);
  expect(await versionNow()).toBeGreaterThan(seen);
  expect(await operate('rollout', 'status', id)).toMatchObject({ state: 'paused' });
  // The gateway accepts it as newer than what it has, and so does the operator.
  expect(JSON.stringify(await operate('release', 'list'))).toContain('3.0.0');
  // The device is told to wait.
  expect(await update()).toMatchObject({ state: 'waiting', waitingFor: 'rollout' });

  // Once its chunks are there again, the rollout can be resumed and goes on.
  expect(await publishAgain('3.0.0')).toMatchObject({ state: 'mended' });
  expect(await publishAgain('3.0.0')).toMatchObject({ state: 'unchanged', upload: { newChunks: 0 } });
  await operate('rollout', 'resume', id, '--yes');
  // An attacker may have the keys of the backup by now. What they have signed no longer counts, and no operator has to act for that.
  await operate('keys', 'rotate', 'rollouts');
  expect(await update()).toMatchObject({ state: 'completed' });
  // First come the reports that the origin has lost, then those made since. A command that ends needs several runs for that.
  await testbed.until(async () => {
    await update();
    const { counts } = await operate('rollout', 'status', id);
    return JSON.stringify(counts) === '{"completed":1}';
  }, 'the reports to come');
  expect((await readFile(testbed.path('a.img'))).equals(await readFile(testbed.path('3.0.0')))).toBe(false);
  expect((await readFile(testbed.path('b.img'))).equals(await readFile(testbed.path('3.0.0')))).toBe(true);
});

/** The log itself records the loss of what came after the backup, and its chain is valid. */
async function expectToldLoss(recovered: Record<string, unknown>, paused: string): Promise<void> {
  const { logRestoredTo } = recovered;
  const { entries } = await operate('audit', '--verify');
  const all: { action: string; subject: string; details?: unknown }[] = Array.isArray(entries) ? entries : [];
  const at = all.findIndex(({ action }) => action === 'origin.recover');
  expect(all[at]).toMatchObject({
    by: 'origin',
    details: {
      logRestoredTo: { seq: at, hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
      laterEntries: expect.stringContaining('lost'),
      from: gateway.url,
    },
  });
  expect(all[at]?.details).toMatchObject({ logRestoredTo });
  // Nothing between the backup and the loss is left.
  expect(all.slice(0, at).map(({ subject }) => subject)).not.toContain('release:camera/2.0.0');
  expect(all.slice(at + 1).map(({ action, subject }) => `${action} ${subject}`)).toEqual([
    `rollout.pause rollout:${paused}`,
    'release.recover release:camera/2',
    'release.recover release:camera/3',
  ]);
}

it('without newer data it only pauses the rollouts, and says what it could not do', async () => {
  await publish('1.0.0');
  const id = await rollOut('1.0.0');
  await origin.stop();
  const recover = () => testbed.json('sitecast-origin', ['recover', '--data', 'origin']);
  expect(await recover()).toMatchObject({ paused: [id], laterEntries: 'unknown' });
  // The end of the log is now the entry of the first recovery, so nothing counts as lost again.
  expect(await recover()).toMatchObject({ paused: [], laterEntries: 'none' });
  const deaf = await testbed.run('sitecast-origin', [
    'recover',
    '--data',
    'origin',
    '--from',
    'http://127.0.0.1:1',
  ]);
  expect(deaf).toMatchObject({ exitCode: 4 });
  expect(deaf.stderr).toContain('SITECAST_MIRRORS_UNREAD');
  const nothing = await testbed.run('sitecast-origin', ['recover', '--data', 'nowhere']);
  expect(nothing.stderr).toContain('SITECAST_NOT_INITIALISED');
  await startOrigin();
  expect(await operate('rollout', 'status', id)).toMatchObject({ state: 'paused' });
});

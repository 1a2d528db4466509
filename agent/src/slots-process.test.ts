import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, open, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FleetRepository, OriginRecords } from '@sitecast/shared/testing/origin';
import { LoopDevices, whyNoLoopDevices } from './testing/loop-devices.ts';
import { AgentProcess, until } from './testing/process.ts';
import { FakeGateway } from './testing/fake-gateway.ts';

// The real command on real block devices.

const MIB = 1024 * 1024;
const ALTERED_AT = 70_000;
const image = randomBytes(150_000);
const devices = new LoopDevices();
const running: AgentProcess[] = [];
let directory: string;
let fleet: FleetRepository;
let origin: OriginRecords;
let site: FakeGateway;
/** A link below /dev, as udev creates one for a label. */
let link: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sitecast-slots-'));
  link = `/dev/sitecast-test-${randomBytes(6).toString('hex')}`;
  fleet = await FleetRepository.create();
  origin = new OriginRecords(fleet);
  site = await FakeGateway.open(origin);
  await writeFile(join(directory, 'root.json'), fleet.rootBytes);
  fleet.addRelease({ counter: 1, image });
  await fleet.publishAll();
});
afterEach(async () => {
  for (const agent of running.splice(0)) await agent.stop('SIGKILL');
  await site.close();
  devices.release();
  await rm(link, { force: true });
  await rm(directory, { recursive: true, force: true });
});

const settings = (a: string, b: string, data = 'data') => [
  `--data=${join(directory, data)}`,
  `--gateway=${site.url}`,
  `--root=${join(directory, 'root.json')}`,
  '--product=camera',
  '--hardware=rpi4',
  '--time-sync=yes',
  '--no-peers',
  '--boot=file',
  `--slot-a=${a}`,
  `--slot-b=${b}`,
];

function daemon(a: string, b: string, data?: string): AgentProcess {
  const agent = new AgentProcess(['run', ...settings(a, b, data), '--poll=1s']);
  running.push(agent);
  return agent;
}

const status = async () => (await AgentProcess.run(['status', `--data=${join(directory, 'data')}`])).stdout;
const hasReported = (state: string, code?: string) => () =>
  origin.reports.some(report => report.state === state && report.reason?.code === code);

/** A window of half an hour, some hours from now. */
function closedWindow(): string {
  const hour = String((new Date().getHours() + 6) % 24).padStart(2, '0');
  return `${hour}:00-${hour}:30`;
}

async function sha256Of(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

async function readFirst(path: string, lengthBytes: number): Promise<Buffer> {
  const handle = await open(path);
  const { buffer } = await handle.read(Buffer.alloc(lengthBytes), 0, lengthBytes, 0);
  await handle.close();
  return buffer;
}

it('one file under two names is refused at the start, and not written', async () => {
  const [a, b] = [join(directory, 'a.img'), join(directory, 'b.img')];
  await writeFile(a, 'what runs');
  await symlink(a, b);
  fleet.addRollout(1);
  await fleet.publishAll();
  const refused = await AgentProcess.run(['update', ...settings(a, b)]);
  expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
  expect(refused.stderr).toContain('SITECAST_SETTING_INVALID');
  expect(await readFile(a, 'utf8')).toBe('what runs');
});

it('two agents with different data do not write one slot: the second waits until the first has ended', async () => {
  const [a, b] = [join(directory, 'a.img'), join(directory, 'b.img')];
  await writeFile(a, 'what runs');
  const first = daemon(a, b);
  await until('the first has enrolled', () => origin.reports.length > 0);
  // For this agent, the running slot is the one that may be written.
  const second = daemon(b, a, 'other');
  fleet.addRollout(1);
  await fleet.publishAll();
  await until('the first has updated', hasReported('completed'));
  await until('the second waits', hasReported('waiting', 'SITECAST_SLOT_BUSY'));
  const messages = origin.reports.map(({ reason }) => reason?.message);
  expect(messages).toContain(`the slot ${a} is the slot of another sitecast-agent, process ${first.pid}`);
  expect(await readFile(a, 'utf8')).toBe('what runs');
  expect(await readFile(b)).toEqual(image);
  await first.stop('SIGKILL');
  await until(
    'the second has updated',
    () => origin.reports.filter(({ state }) => state === 'completed').length === 2,
  );
  expect(await readFile(a)).toEqual(image);
  await second.stop('SIGKILL');
});

const whySkipped = whyNoLoopDevices();

describe.skipIf(whySkipped !== undefined)(`on loop devices${whySkipped ? ` (${whySkipped})` : ''}`, () => {
  it('waits for a slot that is missing, then while it is mounted; bytes that change before its window are fetched again', async () => {
    const backing = join(directory, 'b.img');
    const [a, b] = [devices.create(join(directory, 'a.img'), MIB), devices.create(backing, MIB)];
    devices.format(b);
    const point = join(directory, 'mnt');
    await mkdir(point);
    devices.mount(b, point);
    await writeFile(join(point, 'kept'), 'kept');
    const rollout = fleet.addRollout(1, { window: closedWindow() });
    await fleet.publishAll();

    const agent = daemon(a, link);
    await until('the slot is missing', hasReported('waiting', 'SITECAST_SLOT_MISSING'));
    expect(await status()).toMatch(new RegExp(`^slot B +other +missing .*\\n +the slot ${link} is `, 'm'));
    await expect(stat(link)).rejects.toMatchObject({ code: 'ENOENT' });

    await symlink(b, link);
    await until('the slot is busy', hasReported('waiting', 'SITECAST_SLOT_BUSY'));
    expect(await status()).toMatch(
      new RegExp(`^slot B +other +in use .*\\n +the slot ${link} is mounted at ${point}$`, 'm'),
    );
    expect(await readFile(join(point, 'kept'), 'utf8')).toBe('kept');
    expect(site.count('/chunks/')).toBe(0);
    devices.unmount(point);
    expect(await status()).not.toMatch(/^slot B +other +in use/m);

    await until('it waits for its window', hasReported('waiting', 'SITECAST_WAITING_WINDOW'));
    expect(await readFirst(b, image.length)).toEqual(image);
    const handle = await open(b, 'r+');
    await handle.write(Buffer.of((image[ALTERED_AT] ?? 0) ^ 1), 0, 1, ALTERED_AT);
    await handle.sync();
    await handle.close();
    const chunks = site.count('/chunks/');
    delete rollout.window;
    await fleet.publishAll();
    await until('it is completed', hasReported('completed'));
    expect(site.count('/chunks/') - chunks).toBe(1);
    expect(await readFirst(b, image.length)).toEqual(image);
    expect(origin.reports.map(({ state }) => state)).not.toContain('failed');

    await agent.stop('SIGKILL');
    const checked = await AgentProcess.run(['check', ...settings(a, link)]);
    expect(checked).toMatchObject({ exitCode: 0, stdout: 'release 1.0.0 runs; nothing to do\n' });
  });

  it('does not write the disk of the running slot where a link now leads there', async () => {
    const disk = devices.create(join(directory, 'disk'), 8 * MIB);
    const [first, second] = devices.partition(disk, 8 * MIB);
    await symlink(second, link);
    const agent = daemon(first, link);
    await until('it has enrolled', () => origin.reports.length > 0);
    const before = await sha256Of(join(directory, 'disk'));
    await rm(link);
    await symlink(disk, link);
    fleet.addRollout(1);
    await fleet.publishAll();
    await until('it is noticed', hasReported('waiting', 'SITECAST_SLOT_OVERLAP'));
    expect(await sha256Of(join(directory, 'disk'))).toBe(before);
    await agent.stop('SIGKILL');
    const refused = await AgentProcess.run(['update', ...settings(first, link)]);
    expect(refused).toMatchObject({ exitCode: 2, stdout: '' });
    await rm(link);
    await symlink(second, link);
    daemon(first, link);
    await until('it is completed', hasReported('completed'));
    expect(await readFirst(second, image.length)).toEqual(image);
  });
});

import { readFile, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Filter } from './bed/filter.ts';
import { FleetBed } from './bed/fleet-bed.ts';
import type { Server } from './bed/processes.ts';

// One real agent, with slots in files and a health command that says when and how it ends.

let fleet: FleetBed;
let filter: Filter;
let agent: Server;
let isHeld: boolean;
let letGo: () => void;

beforeEach(async () => {
  fleet = await FleetBed.open(['north']);
  await fleet.publish('camera');
  filter = await Filter.open(fleet.site('north').url);
  isHeld = false;
  letGo = () => {};
  await writeFile(fleet.bed.path('device.token'), await fleet.joinToken('device', 'north'));
  for (const slot of ['a', 'b']) await writeFile(fleet.bed.path(`${slot}.img`), '');
  startAgent();
});
afterEach(async () => {
  letGo();
  await agent.stop('SIGKILL');
  filter.close();
  await fleet.close();
});

function startAgent(): void {
  const health = 'while ! test -e verdict; do sleep 0.05; done; exit $(cat verdict)';
  agent = fleet.bed.start('sitecast-agent', [
    'run',
    ...`--data device --gateway ${filter.url} --token-file device.token --product camera --hardware rpi4 --slot-a a.img --slot-b b.img --poll 1s --log-level error`.split(
      ' ',
    ),
    '--health-command',
    health,
  ]);
}

/** What a boot loader does that has given up a slot: the machine starts again, in the other one. */
async function comeUpIn(slot: 'A' | 'B'): Promise<void> {
  await agent.stop('SIGKILL');
  const path = fleet.bed.path('device/boot.json');
  const state: object = JSON.parse(await readFile(path, 'utf8'));
  await writeFile(path, JSON.stringify({ ...state, next: slot, trial: null }));
  startAgent();
}

/** Keeps chunks back until `letGo`. */
function holdChunks(): void {
  const gone = new Promise<void>(resolve => (letGo = resolve));
  filter.rule = async ({ path }): Promise<'pass'> => {
    if (!path.startsWith('/chunks/')) return 'pass';
    isHeld = true;
    await gone;
    return 'pass';
  };
}

interface ShownReport {
  state: string;
  rollout?: { id: string };
  release?: { version: string };
  reason?: { code: string };
  booted?: { slot: string; release?: { version: string } };
}

async function last(): Promise<ShownReport | undefined> {
  const { devices } = await fleet.operate('device', 'list', '--product', 'camera');
  const isLight = (id: string) => fleet.devices.some(device => device.id === id);
  return Array.isArray(devices) ? devices.find(({ id }) => !isLight(id))?.last : undefined;
}

async function untilLast(state: string, id: string): Promise<ShownReport | undefined> {
  let found: ShownReport | undefined;
  await fleet.bed.until(async () => {
    found = await last();
    return found?.state === state && found.rollout?.id === id;
  });
  return found;
}

async function agentStatus(): Promise<Record<string, unknown>> {
  return await fleet.bed.json('sitecast-agent', ['status', '--data', 'device']);
}

const imageIn = async (slot: 'a' | 'b', version = '2.0.0'): Promise<boolean> =>
  (await readFile(fleet.bed.path(`${slot}.img`))).equals(await readFile(fleet.bed.path(`camera-${version}`)));

it('an abort during the download: nothing is installed, and the device says that it stopped', async () => {
  await fleet.bed.until(async () => (await last()) !== undefined);
  holdChunks();
  const id = await fleet.rollOut('camera', '--all-at-once');
  await fleet.bed.until(async () => isHeld);
  await untilLast('downloading', id);
  await fleet.operate('rollout', 'abort', id, '--yes');
  // Told while the chunks are still on their way.
  const stopped = await untilLast('idle', id);
  expect(stopped).toMatchObject({ reason: { code: 'SITECAST_ROLLOUT_STOPPED' } });
  letGo();
  await fleet.bed.json('sitecast-agent', ['update', '--data', 'device']);
  expect(await agentStatus()).toMatchObject({ booted: 'A' });
  expect(await imageIn('b')).toBe(false);
  expect(await fleet.status(id)).toMatchObject({ state: 'aborted', failures: [] });
});

it.each([
  ['completes it', '0', 'completed', 'B'],
  ['falls back', '1', 'rolledBack', 'A'],
])('an abort during the reboot: the device %s and says so', async (_how, verdict, state, booted) => {
  await fleet.bed.until(async () => (await last()) !== undefined);
  const id = await fleet.rollOut('camera', '--all-at-once');
  await untilLast('confirming', id);
  await fleet.operate('rollout', 'abort', id, '--yes');
  await fleet.untilSigned('camera', id, 'aborted');
  await writeFile(fleet.bed.path('verdict'), verdict);
  const ended = await untilLast(state, id);
  expect(ended).toMatchObject({ release: { version: '2.0.0' }, booted: { slot: booted } });
  expect(await imageIn('b')).toBe(true);
  // It stays where it is: nobody ordered more.
  await fleet.bed.json('sitecast-agent', ['update', '--data', 'device']);
  expect(await agentStatus()).toMatchObject({ booted, update: null });
  expect(await fleet.status(id)).toMatchObject({ state: 'aborted' });
});

it('a boot loader that gives up a release long after its success stops the rollout', async () => {
  await fleet.bed.until(async () => (await last()) !== undefined);
  await writeFile(fleet.bed.path('verdict'), '0');
  // A second device that never comes keeps the rollout going.
  await fleet.enrol('north', 'camera', 1);
  const id = await fleet.rollOut('camera', '--all-at-once', '--on-failure', 'pause');
  await untilLast('completed', id);
  await comeUpIn('A');
  const told = await untilLast('rolledBack', id);
  expect(told).toMatchObject({
    release: { version: '2.0.0' },
    reason: { code: 'bootCountExhausted' },
    booted: { slot: 'A' },
  });
  await fleet.bed.until(async () => (await fleet.status(id)).state === 'paused');
  expect(await fleet.status(id)).toMatchObject({ stop: { why: 'failures' }, figures: { failed: 1 } });
  await fleet.bed.until(async () => (await agentStatus()).booted === 'A');
  expect(await agentStatus()).toMatchObject({
    barred: [{ version: '2.0.0', reason: { code: 'bootCountExhausted' } }],
    lastFailure: { reason: { code: 'bootCountExhausted' } },
  });
  const { stdout } = await fleet.bed.run('sitecast-agent', ['status', '--data', 'device']);
  expect(stdout).toMatch(/barred +2\.0\.0: bootCountExhausted/);
});

it('a device that cannot go back to where it came from is shown, and goes to the release that is named then', async () => {
  await fleet.bed.until(async () => (await last()) !== undefined);
  await writeFile(fleet.bed.path('verdict'), '0');
  // A second device that never comes keeps the rollout going.
  await fleet.enrol('north', 'camera', 1);
  const id = await fleet.rollOut('camera', '--all-at-once');
  await untilLast('completed', id);
  await fleet.operate('rollout', 'rollback', id, '--yes');
  const stuck = await untilLast('blocked', id);
  expect(stuck).toMatchObject({ reason: { code: 'SITECAST_ROLLBACK_IMPOSSIBLE' } });
  expect(await fleet.status(id)).toMatchObject({ state: 'rollingBack', figures: { blocked: 1 } });

  const refused = await fleet.bed.run('sitecast', ['rollout', 'rollback', id, '--to', '2.0.0', '--yes']);
  expect(refused).toMatchObject({ exitCode: 2 });
  expect(refused.stderr).toContain('SITECAST_ROLLBACK_TARGET');
  const named = ['rollout', 'rollback', id, '--to', '1.0.0', '--yes'];
  for (let times = 0; times < 2; times += 1)
    expect(await fleet.operate(...named)).toMatchObject({
      state: 'rollingBack',
      rollbackTo: { counter: 1, version: '1.0.0' },
    });
  const back = await untilLast('rolledBack', id);
  expect(back).toMatchObject({ release: { version: '1.0.0' }, booted: { slot: 'A' } });
  expect(await imageIn('a', '1.0.0')).toBe(true);
  expect(await fleet.status(id)).toMatchObject({ figures: { returned: 1, failed: 0 } });
  const { stdout } = await fleet.bed.run('sitecast', ['rollout', 'status', id]);
  expect(stdout).toMatch(/sent back to 1\.0\.0 \(1\) by/);
});

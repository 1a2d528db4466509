import { createHash } from 'node:crypto';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { readReport } from '@sitecast/shared/fleet';
import { sealUnchecked } from '@sitecast/shared/fleet/testing';
import { Identity } from '@sitecast/shared/identity';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { Filter } from './testbed/filter.ts';
import { FleetTestbed } from './testbed/fleet-testbed.ts';
import type { Server } from './testbed/testbed.ts';

// One real agent, with slots in files and a health command whose time and result the test sets.

// One fleet of processes. Each test has a product and an agent of its own.

let fleet: FleetTestbed;
let filter: Filter;
beforeAll(async () => {
  fleet = await FleetTestbed.open(['north']);
  filter = await Filter.open(fleet.site('north').url);
});
afterAll(async () => {
  filter.close();
  await fleet.close();
});

/** The product of this test, and the name of its agent's data directory. */
let product: string;
let tests = 0;
let agent: Server;
let isHeld: boolean;
let letGo: () => void;

/** Cut to the 400 characters that are reported, it would begin with half of a surrogate pair. */
const unlucky = `${'😀'.repeat(200)}x`;

beforeEach(async () => {
  tests += 1;
  product = `camera-${tests}`;
  isHeld = false;
  letGo = () => {};
  await fleet.publish(product);
  await writeFile(at('token'), await fleet.joinToken('device', 'north'));
  for (const slot of ['a', 'b']) await writeFile(at(`${slot}.img`), '');
  await writeFile(at('says'), unlucky);
  startAgent();
  await fleet.testbed.until(async () => (await last()) !== undefined, 'the agent to say something');
});
afterEach(async () => {
  letGo();
  filter.rule = () => 'pass';
  await agent.stop('SIGKILL');
});

/** A file of this test. */
const at = (name: string): string => fleet.testbed.path(`${product}-${name}`);

function startAgent(): void {
  const health = `while ! test -e ${at('verdict')}; do sleep 0.05; done; cat ${at('says')}; exit $(cat ${at('verdict')})`;
  agent = fleet.testbed.start('sitecast-agent', [
    'run',
    ...`--data ${product} --gateway ${filter.url} --token-file ${at('token')} --product ${product} --hardware rpi4 --slot-a ${at('a.img')} --slot-b ${at('b.img')} --poll 1s --log-level error --no-peers`.split(
      ' ',
    ),
    '--health-command',
    health,
  ]);
}

/** Does what a boot loader does that has given up a slot: the machine boots the other one. */
async function comeUpIn(slot: 'A' | 'B'): Promise<void> {
  await agent.stop('SIGKILL');
  const path = fleet.testbed.path(product, 'boot.json');
  const state: object = JSON.parse(await readFile(path, 'utf8'));
  await writeFile(path, JSON.stringify({ ...state, next: slot, trial: null }));
  startAgent();
}

/** Holds chunks back until `letGo` is called. */
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
  reason?: { code: string; message: string };
  booted?: { slot: string; release?: { version: string } };
}

async function last(): Promise<ShownReport | undefined> {
  const { devices } = await fleet.operate('device', 'list', '--product', product);
  const isLight = (id: string) => fleet.devices.some(device => device.id === id);
  return Array.isArray(devices) ? devices.find(({ id }) => !isLight(id))?.last : undefined;
}

async function untilLast(state: string, id: string): Promise<ShownReport | undefined> {
  let found: ShownReport | undefined;
  await fleet.testbed.until(async () => {
    found = await last();
    return found?.state === state && found.rollout?.id === id;
  });
  return found;
}

async function agentStatus(): Promise<Record<string, unknown>> {
  return await fleet.testbed.json('sitecast-agent', ['status', '--data', product]);
}

/** Adds to the chain what version 0.1 made of a text that it cut inside a character. */
async function tellAsFirstRelease(message: string): Promise<void> {
  const path = fleet.testbed.path(product, 'reports.jsonl');
  const newest = readReport(JSON.parse((await readFile(path, 'utf8')).trim().split('\n').at(-1) ?? ''));
  const { epoch, seq, ...rest } = newest.document;
  const previous = createHash('sha256').update(newest.payload).digest('hex');
  const report = { ...rest, epoch, seq: seq + 1, previous, reason: { code: 'healthFailed', message } };
  const envelope = await sealUnchecked(report, await Identity.open(fleet.testbed.path(product)));
  await appendFile(path, `${JSON.stringify(envelope)}\n`);
}

const imageIn = async (slot: 'a' | 'b', version = '2.0.0'): Promise<boolean> =>
  (await readFile(at(`${slot}.img`))).equals(await readFile(at(version)));

it('an abort during the download: nothing is installed, and the device reports that it stopped', async () => {
  holdChunks();
  const id = await fleet.rollOut(product, '--all-at-once');
  await fleet.testbed.until(async () => isHeld);
  await untilLast('downloading', id);
  await fleet.operate('rollout', 'abort', id, '--yes');
  // The report arrives while the chunks are still held back.
  const stopped = await untilLast('idle', id);
  expect(stopped).toMatchObject({ reason: { code: 'SITECAST_ROLLOUT_STOPPED' } });
  letGo();
  await fleet.testbed.json('sitecast-agent', ['update', '--data', product]);
  expect(await agentStatus()).toMatchObject({ booted: 'A' });
  expect(await imageIn('b')).toBe(false);
  expect(await fleet.status(id)).toMatchObject({ state: 'aborted', failures: [] });
});

/** Checks that the output of the health command was reported and counted, and so was the report that version 0.1 has left in the file. */
async function toldAll(id: string): Promise<void> {
  const message = `health: exit code 1: ${'😀'.repeat(199)}x`;
  expect(await fleet.status(id)).toMatchObject({ failures: [{ code: 'healthFailed', count: 1, message }] });
  await agent.stop('SIGKILL');
  await tellAsFirstRelease(`${unlucky} from the first release`.slice(-421));
  startAgent();
  await fleet.testbed.until(async () => (await last())?.reason?.message.endsWith('first release') === true);
  expect((await last())?.reason?.message).toBe(`\ufffd${'😀'.repeat(198)}x from the first release`);
  await fleet.testbed.until(async () => Reflect.get(Object((await agentStatus()).reports), 'pending') === 0);
}

it.each([
  ['completes it', '0', 'completed', 'B', async () => {}],
  ['falls back', '1', 'rolledBack', 'A', toldAll],
])('an abort during the reboot: the device %s and reports it', async (_how, verdict, state, booted, also) => {
  const id = await fleet.rollOut(product, '--all-at-once');
  await untilLast('confirming', id);
  await fleet.operate('rollout', 'abort', id, '--yes');
  await fleet.untilSigned(product, id, 'aborted');
  await writeFile(at('verdict'), verdict);
  const ended = await untilLast(state, id);
  expect(ended).toMatchObject({ release: { version: '2.0.0' }, booted: { slot: booted } });
  expect(await imageIn('b')).toBe(true);
  // The device keeps its release, because no rollout orders another.
  await fleet.testbed.json('sitecast-agent', ['update', '--data', product]);
  expect(await agentStatus()).toMatchObject({ booted, update: null });
  expect(await fleet.status(id)).toMatchObject({ state: 'aborted' });
  await also(id);
});

it('a boot loader that gives up a release long after its success stops the rollout', async () => {
  await writeFile(at('verdict'), '0');
  // A second device that never connects keeps the rollout under way.
  await fleet.enrol('north', product, 1);
  const id = await fleet.rollOut(product, '--all-at-once', '--on-failure', 'pause');
  await untilLast('completed', id);
  await comeUpIn('A');
  const told = await untilLast('rolledBack', id);
  expect(told).toMatchObject({
    release: { version: '2.0.0' },
    reason: { code: 'bootCountExhausted' },
    booted: { slot: 'A' },
  });
  await fleet.testbed.until(async () => (await fleet.status(id)).state === 'paused');
  expect(await fleet.status(id)).toMatchObject({ stop: { why: 'failures' }, figures: { failed: 1 } });
  await fleet.testbed.until(async () => (await agentStatus()).booted === 'A');
  expect(await agentStatus()).toMatchObject({
    barred: [{ version: '2.0.0', reason: { code: 'bootCountExhausted' } }],
    lastFailure: { reason: { code: 'bootCountExhausted' } },
  });
  const { stdout } = await fleet.testbed.run('sitecast-agent', ['status', '--data', product]);
  expect(stdout).toMatch(/barred +2\.0\.0: bootCountExhausted/);
});

it('a device that cannot return to its former release is shown, and installs the release that is named then', async () => {
  await writeFile(at('verdict'), '0');
  // A second device that never connects keeps the rollout under way.
  await fleet.enrol('north', product, 1);
  const id = await fleet.rollOut(product, '--all-at-once');
  await untilLast('completed', id);
  await fleet.operate('rollout', 'rollback', id, '--yes');
  const stuck = await untilLast('blocked', id);
  expect(stuck).toMatchObject({ reason: { code: 'SITECAST_ROLLBACK_IMPOSSIBLE' } });
  expect(await fleet.status(id)).toMatchObject({ state: 'rollingBack', figures: { blocked: 1 } });

  const refused = await fleet.testbed.run('sitecast', ['rollout', 'rollback', id, '--to', '2.0.0', '--yes']);
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
  const { stdout } = await fleet.testbed.run('sitecast', ['rollout', 'status', id]);
  expect(stdout).toMatch(/sent back to 1\.0\.0 \(1\) by/);
});

import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';
import { unpackReleased } from './testbed/released.ts';

/** The build of a command: `released` is commit 51397eb's, `current` is this checkout's. */
type Build = 'released' | 'current';
type Side = 'origin' | 'gateway' | 'agent';

const IMAGE_BYTES = 300_000;

let testbed: Testbed;
let releasedBin: string;
let origin: Server;
const running: Partial<Record<Side, Server>> = {};
const ports: Partial<Record<Side, string>> = {};
const images = new Map<string, Buffer>();

beforeAll(async () => {
  testbed = await Testbed.open();
  releasedBin = await unpackReleased(testbed.path('released'));
});
afterAll(() => testbed.close());

const of = (build: Build): { bin?: string } => (build === 'released' ? { bin: releasedBin } : {});

/** Stops one side if it runs, and starts it from another build on the same data and address. */
async function start(side: Side, build: Build): Promise<void> {
  expect(await running[side]?.stop()).not.toBe(1);
  if (side === 'agent') running.agent = testbed.start('sitecast-agent', agentFlags(), of(build));
  else {
    const about =
      side === 'origin'
        ? ['serve', '--data', 'origin']
        : 'serve --data gateway --token-file gateway.token --poll 1s'.split(' ');
    const listen = ['--listen', `127.0.0.1:${ports[side] ?? 0}`, '--log-level', 'warn'];
    const name = side === 'origin' ? 'sitecast-origin' : 'sitecast-gateway';
    const server = await testbed.serve(name, [...about, ...listen], of(build));
    ports[side] = new URL(server.url).port;
    running[side] = server;
    if (side === 'origin') origin = server;
  }
}

function agentFlags(data = 'agent', product = 'camera'): string[] {
  const about = `run --data ${data} --token-file device.token --product ${product} --hardware rpi4 --slot-a a.img --slot-b b.img --poll 1s --log-level warn --no-mdns`;
  return [...about.split(' '), '--gateway', `http://127.0.0.1:${ports.gateway}`];
}

/** Publishes a new image and rolls it out, until the device has reported to the origin that it runs. */
async function update(version: string, operator: Build, ...more: string[]): Promise<string> {
  const image = randomBytes(IMAGE_BYTES);
  images.set(version, image);
  await writeFile(testbed.path(version), image);
  const operate = (...args: string[]) => testbed.json('sitecast', args, of(operator));
  const about = ['--product', 'camera', '--version', version, '--hardware', 'rpi4'];
  await operate('release', 'publish', version, ...about);
  const { id } = await operate('rollout', 'start', 'camera', version, '--all-at-once', ...more);
  await untilCounted(String(id), 'completed', operator);
  return String(id);
}

async function untilCounted(id: string, state: string, operator: Build): Promise<void> {
  await testbed.until(async () => {
    const { counts } = await testbed.json('sitecast', ['rollout', 'status', id], of(operator));
    return JSON.stringify(counts).includes(`"${state}":1`);
  });
}

/** The released command rolls back a rollout that this build's origin has completed, and the released agent follows. */
async function sendBack(id: string): Promise<void> {
  const operate = (...args: string[]) => testbed.json('sitecast', args, of('released'));
  await testbed.until(async () => (await operate('rollout', 'status', id)).state === 'completed');
  expect(await operate('rollout', 'rollback', id, '--yes')).toMatchObject({ state: 'rollingBack' });
  await untilCounted(id, 'rolledBack', 'released');
  await operate('rollout', 'abort', id, '--yes');
}

/** A device asks for a name through a gateway of any build, and gets it. The released agent ignores the name in the signed assignment. */
async function nameOne(): Promise<void> {
  const flags = [...agentFlags('other', 'doorbell'), ...'--slot-a c.img --slot-b d.img'.split(' ')];
  const isSo = (said: object) =>
    testbed.until(async () => {
      const text = await readFile(testbed.path('other', 'status.json'), 'utf8').catch(() => '{}');
      const { enrolment, name }: Record<string, unknown> = JSON.parse(text);
      return JSON.stringify({ enrolment, name }) === JSON.stringify(said);
    });
  const named = testbed.start('sitecast-agent', [...flags, '--name', 'door-1']);
  await isSo({ enrolment: 'enrolled', name: 'door-1' });
  await named.stop();
  // This origin's assignments end. The released gateway has passed this one on, and the released agent takes it.
  expect(await assignment('other')).toHaveProperty('expiresAt');
  const released = testbed.start('sitecast-agent', flags, of('released'));
  await isSo({ enrolment: 'enrolled' });
  await released.stop();
  const found = await testbed.json('sitecast', ['device', 'list', '--product', 'doorbell']);
  expect(found).toMatchObject({ devices: [{ name: 'door-1', state: 'idle' }] });
}

/** The id that the site's gateway says it has. */
async function gatewayId(): Promise<unknown> {
  const answer = await fetch(`http://127.0.0.1:${ports.gateway}/site/v1/gateway`);
  return JSON.parse(await answer.text()).id;
}

/** A gateway of this build enrols at the released origin, and speaks to it: its requests name the origin as their receiver. */
async function joinWithNewGateway(): Promise<void> {
  const about = ['--join', '--kind', 'gateway', '--site', 'south', '--out', 'south.token'];
  await testbed.json('sitecast', ['token', 'create', ...about], of('released'));
  const options =
    'serve --data south --token-file south.token --poll 1s --listen 127.0.0.1:0 --log-level warn';
  const gateway = await testbed.serve('sitecast-gateway', options.split(' '));
  await testbed.until(async () => {
    const { gateways } = await testbed.json(
      'sitecast',
      ['gateway', 'list', '--site', 'south'],
      of('released'),
    );
    return Array.isArray(gateways) && gateways.some(({ state }) => state === 'enrolled');
  }, 'the gateway to enrol');
  expect(await gateway.stop()).not.toBe(1);
}

/** What the origin knows of the device through its gateway. */
async function presence(): Promise<unknown> {
  const { devices } = await testbed.json('sitecast', ['device', 'list', '--product', 'camera']);
  return Array.isArray(devices) ? devices[0]?.presence : undefined;
}

/** The origin's statement about the device, as the device keeps it. */
async function assignment(data = 'agent'): Promise<object> {
  const state = JSON.parse(await readFile(testbed.path(data, 'state.json'), 'utf8'));
  return JSON.parse(Buffer.from(state.assignment.payload, 'base64').toString('utf8'));
}

/** Which slot holds an image. */
async function slotOf(version: string): Promise<string | undefined> {
  for (const slot of ['a', 'b'])
    if (images.get(version)?.equals(await readFile(testbed.path(`${slot}.img`)))) return slot;
  return undefined;
}

it('updates a device across all combinations of the released build and this one, on the same data', async () => {
  await start('origin', 'released');
  for (const role of ['root', 'release'])
    await testbed.json('sitecast', ['keys', 'create', role, '--no-passphrase'], of('released'));
  await testbed.json(
    'sitecast',
    ['init', '--origin', origin.url, '--token-file', 'origin/admin.token'],
    of('released'),
  );
  const token = ['token', 'create', '--join', '--site', 'north', '--kind'];
  await testbed.json('sitecast', [...token, 'gateway', '--out', 'gateway.token'], of('released'));
  await testbed.json(
    'sitecast',
    [...token, 'device', '--uses', '2', '--out', 'device.token'],
    of('released'),
  );
  await start('gateway', 'released');
  await start('agent', 'released');
  await update('1.0.0', 'released');
  await joinWithNewGateway();

  expect(await assignment()).toMatchObject({ serial: 1 });
  expect(await assignment()).not.toHaveProperty('expiresAt');

  // The origin is upgraded first. Gateways, devices and operators come later.
  await start('origin', 'current');
  // The rollout soaks now, which the released command doesn't know. The next rollout can be started nevertheless.
  const soaking = await update('2.0.0', 'released', '--soak', '1h');
  expect(await testbed.json('sitecast', ['rollout', 'status', soaking])).toMatchObject({ state: 'active' });
  await update('3.0.0', 'current');

  // A command of this build beside a released daemon asks it, and doesn't seem to obey options that the daemon can't be compared by.
  const check = (...more: string[]) => testbed.run('sitecast-agent', ['check', '--data', 'agent', ...more]);
  expect(await check()).toMatchObject({ exitCode: 0, stdout: 'release 3.0.0 runs; nothing to do\n' });
  const refused = await check('--max-bytes', '1MiB');
  expect(refused).toMatchObject({ exitCode: 3, stdout: '' });
  expect(refused.stderr).toMatch(
    /of an earlier version, .* --max-bytes: nothing was done \(SITECAST_DAEMON_SETTINGS\)/,
  );

  // An upgraded device is behind a gateway that isn't upgraded.
  await start('agent', 'current');
  await update('4.0.0', 'current');
  // It names the gateway in what it signs, which that one takes as it is.
  const known = await readFile(testbed.path('agent', 'gateways.json'), 'utf8');
  expect(JSON.parse(known).servers).toEqual({
    [`http://127.0.0.1:${ports.gateway}`]: { name: await gatewayId() },
  });
  expect(await presence()).toBe('untold');
  await nameOne();

  await start('gateway', 'current');
  await update('5.0.0', 'current');
  await testbed.until(
    async () => (await presence()) === 'heard',
    'the gateway to tell that it hears the device',
  );

  // The new release fell back. The agent of the old release continues with the data that the new one wrote.
  await start('agent', 'released');
  await sendBack(await update('6.0.0', 'current'));
  await start('agent', 'current');
  await update('7.0.0', 'current');
  // The release that the device went back to, and the one that it installed next, work.
  expect(await slotOf('5.0.0')).toBeDefined();
  expect(await slotOf('7.0.0')).toBeDefined();
});

import { SitecastError } from '@sitecast/shared/errors';
import type { Presence } from '@sitecast/shared/api';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import { startSitecast } from './testing/command.ts';
import type { TestMember } from './testing/device.ts';
import { FleetHarness } from './testing/fleet-harness.ts';
import { fetchPresence } from './cli/presence-view.ts';

let harness: FleetHarness;
let server: RunningServer;
let north: TestMember;
let south: TestMember;
let released: TestMember;
beforeAll(async () => {
  harness = await FleetHarness.open(path => testDisk(path));
  server = await listen(harness.origin.app, { host: '127.0.0.1', port: 0 });
  north = await harness.gateway('north');
  south = await harness.gateway('south');
  released = await harness.gateway('west');
});
afterAll(async () => {
  await server.close(0);
  await harness.close();
});

async function sitecast(...args: string[]): Promise<string> {
  const flags = ['--origin', server.url, '--token', harness.origin.adminToken];
  const { exitCode, stdout, stderr } = await startSitecast([...args, ...flags]).done;
  expect({ exitCode, stderr }).toMatchObject({ exitCode: 0 });
  return stdout + stderr;
}

const lineOf = (text: string, id: string): string =>
  text.split('\n').find(line => line.includes(id)) ?? `no line with ${id} in ${text}`;

async function say(gateway: TestMember, seq: number, said: Partial<Presence>): Promise<void> {
  const message = { session: 'a'.repeat(16), seq, heard: [], gone: [], turns: [], isWhole: true };
  expect((await gateway.post('/site/v1/presence', { ...message, ...said })).body.next).toBe('changes');
}

it('shows who is heard, who is silent, where no gateway reports, and which device blocks a site', async () => {
  const [well, holder, waiter] = [await harness.device(), await harness.device(), await harness.device()];
  const [far, quiet] = [await harness.device('west'), await harness.device('south')];
  const { id } = await harness.startRollout();
  const rollout = String(id);
  await waiter.sendReports(
    [await waiter.next({ state: 'waiting', rollout: { id: rollout, attempt: 1 } })],
    north,
  );
  await far.sendReports([await far.next()], released);
  const turns = [{ id: holder.id, product: 'camera', rollout, heldS: 12 * 60, leftS: 600 }];
  await say(north, 1, { heard: [well.id, holder.id, waiter.id], turns });
  await say(south, 1, {});
  harness.clock.nowMs += 30_000;

  let list = await sitecast('device', 'list');
  expect(lineOf(list, well.id)).toMatch(/ enrolled +- +now$/);
  expect(lineOf(list, quiet.id)).toContain('  enrolled, silent  ');
  expect(lineOf(list, far.id)).toContain('Z (its last report)');
  expect(await sitecast('device', 'show', quiet.id)).toContain('no: the gateways of its site live');
  expect(await sitecast('device', 'show', well.id)).toContain(`now, by ${north.id}`);
  expect(await sitecast('device', 'show', far.id)).toContain('its last report counts');
  expect(await sitecast('gateway', 'show', released.id)).toContain('it does not tell whom it hears');
  await harness.call('PATCH', `/api/v1/devices/${holder.id}`, { name: 'door-7' });
  await harness.call('PATCH', `/api/v1/gateways/${south.id}`, { name: 'gate-2' });
  const turn = 'site north: its turn is held by door-7 for 12 min 30 s; it ends in 9 min 30 s unless renewed';
  expect((await sitecast('gateway', 'show', north.id)).split('\n')).toContain(turn);
  expect((await sitecast('rollout', 'status', rollout)).split('\n')).toContain(turn);
  let status = await sitecast('status');
  expect(status).toContain('gateways: 2 heard, 0 silent, 1 that do not tell');
  // The device is heard, and may well be busy.
  expect(status).not.toContain('door-7');

  await say(north, 2, { gone: [{ id: holder.id, ageS: 300 }], turns });
  harness.clock.nowMs += 80_000;
  status = await sitecast('status');
  const heldAt = new Date(harness.clock.nowMs - 380_000).toISOString();
  const stuck = `site north: its turn is held by door-7 for 13 min 20 s, not heard since ${heldAt}; it ends in 8 min 40 s unless renewed, or, where it is gone for good, with \`sitecast device revoke door-7\``;
  expect(status).toContain(`warning: ${stuck}\n`);
  const saidAt = new Date(harness.clock.nowMs - 110_000).toISOString();
  expect(status).toContain(`warning: site south: gateway gate-2 is silent since ${saidAt}`);
  list = await sitecast('gateway', 'list');
  expect(lineOf(list, 'gate-2')).toContain(`enrolled, silent  ${saidAt}`);
  expect(lineOf(list, north.id)).toContain('enrolled          now');
});

it('shows which gateways serve old metadata, and what is wrong at one, as it says', async () => {
  const current = harness.origin.repository.committed?.timestamp.signed.version ?? 0;
  const troubles = [{ code: 'SITECAST_PEER_LISTEN', detail: 'port 7404 is taken' }];
  await say(north, 3, { timestampVersion: current, troubles });
  await say(south, 2, { timestampVersion: current - 2 });
  // It may have told in the second of a publication.
  expect(await sitecast('status')).not.toContain('behind');
  const sinceAt = new Date(harness.clock.nowMs).toISOString();
  harness.clock.nowMs += 60_000;
  await say(north, 4, { timestampVersion: current });
  await say(south, 3, { timestampVersion: current - 1, troubles });
  harness.clock.nowMs += 60_000;
  const status = await sitecast('status');
  const behind = `1 version behind since ${sinceAt}`;
  expect(status).toContain(`warning: site south: gateway gate-2 serves metadata that is ${behind}`);
  expect(status).toContain('gateway gate-2 says: port 7404 is taken (SITECAST_PEER_LISTEN)');
  // What is over is no longer shown.
  expect(status).not.toContain(north.id);
  expect(await sitecast('gateway', 'show', 'gate-2')).toContain(
    `serves version ${current - 1} of the timestamp, ${behind}`,
  );
  const list = await sitecast('gateway', 'list');
  expect(lineOf(list, 'gate-2')).toContain('1 behind, in trouble');
  expect(lineOf(list, north.id)).toContain('  current');
  await say(south, 4, { timestampVersion: current });
  expect(await sitecast('status')).not.toContain('gate-2');
});

it('shows no turn of a device that has reported the end of its update since', async () => {
  const holder = await harness.device();
  const rollout = { id: harness.origin.rollouts.list()[0]?.rollout.id ?? '', attempt: 1 };
  const turns = [{ id: holder.id, product: 'camera', rollout: rollout.id, heldS: 14, leftS: 600 }];
  await say(north, 5, { heard: [holder.id], turns });
  const held = `its turn is held by ${holder.id}`;
  expect(await sitecast('rollout', 'status', rollout.id)).toContain(held);
  harness.clock.nowMs += 1000;
  const release = { counter: 1, version: '1.0.0' };
  await holder.report({ state: 'completed', rollout, release, booted: { slot: 'B', release } });
  expect(await sitecast('rollout', 'status', rollout.id)).not.toContain(held);
  expect(await sitecast('gateway', 'show', north.id)).not.toMatch(/its turn is held by 12D3|no report yet/);
});

it('says what is wrong with an id, and how a rollout that has ended is rolled back', async () => {
  const flags = ['--origin', server.url, '--token', harness.origin.adminToken];
  const refused = async (...args: string[]) => (await startSitecast([...args, ...flags]).done).stderr;
  expect(await refused('rollout', 'status', 'zzzz')).toContain("no rollout's id is zzzz, or begins with it");
  const [newest] = harness.origin.rollouts.list();
  const id = newest?.rollout.id ?? '';
  expect(await harness.call('POST', `/api/v1/rollouts/${id}/abort`)).toMatchObject({ state: 'aborted' });
  expect(await refused('rollout', 'rollback')).toContain(`\`sitecast rollout rollback ${id}\``);
  expect(await harness.call('GET', '/api/v1/rollouts/zzzz')).toMatchObject({
    code: 'SITECAST_REQUEST_INVALID',
    detail: 'the request is invalid: id: expected the id of a rollout (16 hexadecimal digits)',
  });
});

it('shows what an origin of an earlier version can report', async () => {
  const none = new SitecastError('notFound', 'SITECAST_NOT_FOUND', 'there is no "/api/v1/presence"');
  expect(await fetchPresence({ json: () => Promise.reject(none) })).toBeUndefined();
});

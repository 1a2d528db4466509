import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { TestMember } from '@sitecast/origin/testing';
import { sealUnchecked } from '@sitecast/shared/fleet/testing';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';

let testbed: Testbed;
let origin: Server;
let gateway: Server;

/** The product of this test. It is also the prefix of its files. */
let product: string;
let tests = 0;

// One site for all tests. Each test has a product and devices of its own.
beforeAll(async () => {
  testbed = await Testbed.open();
  origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet('0')]);
  await testbed.foundRepository(origin);
  for (const out of ['gw.token', 'other.token'])
    await operate('token', 'create', '--join', '--kind', 'gateway', '--site', 'north', '--out', out);
  gateway = await startGateway('0');
  await untilReady();
});
beforeEach(async () => {
  tests += 1;
  product = `camera-${tests}`;
  await publish('1.0.0');
  const uses = ['--uses', '9', '--out', at('token')];
  await operate('token', 'create', '--join', '--kind', 'device', ...uses);
});
afterAll(() => testbed.close());

/** A file of this test. */
const at = (name: string): string => testbed.path(`${product}-${name}`);
const quiet = (port: string) => ['--listen', `127.0.0.1:${port}`, '--log-level', 'error'];
const operate = (...args: string[]) => testbed.json('sitecast', args);
const startGateway = (port: string) =>
  testbed.serve('sitecast-gateway', ['serve', '--data', 'gw', '--token-file', 'gw.token', ...quiet(port)]);
const untilReady = () => testbed.until(async () => (await fetch(`${gateway.url}/readyz`)).ok);

async function publish(version: string): Promise<Buffer> {
  const bytes = randomBytes(300_000);
  await writeFile(at(version), bytes);
  const about = ['--product', product, '--version', version, '--hardware', 'rpi4'];
  await operate('release', 'publish', at(version), ...about);
  return bytes;
}

async function rollOut(version: string): Promise<string> {
  const { id } = await operate('rollout', 'start', product, version, '--all-at-once');
  const newest = await timestampOf(origin);
  await testbed.until(async () => (await timestampOf(gateway)).equals(newest), 'the gateway to hear of it');
  return String(id);
}

async function timestampOf({ url }: Server): Promise<Buffer> {
  return Buffer.from(await (await fetch(`${url}/metadata/timestamp.json`)).arrayBuffer());
}

/** A device's data and slots are `PRODUCT-NAME`, `PRODUCT-NAME-a.img` and `PRODUCT-NAME-b.img`. */
const flagsOf = (name: string): string[] => [
  ...`--data ${at(name)} --gateway ${gateway.url} --token-file ${at('token')} --product ${product}`.split(
    ' ',
  ),
  ...`--hardware rpi4 --slot-a ${at(name)}-a.img --slot-b ${at(name)}-b.img --poll 1s --log-level error`.split(
    ' ',
  ),
];
/** For devices that exchange no chunks. */
const aloneFlagsOf = (name: string): string[] => [...flagsOf(name), '--no-peers'];

async function makeSlots(name: string): Promise<void> {
  for (const slot of ['a', 'b']) await writeFile(at(`${name}-${slot}.img`), '');
}

const update = (name: string) => testbed.json('sitecast-agent', ['update', ...aloneFlagsOf(name)]);
const slot = (name: string, letter: 'a' | 'b') => readFile(at(`${name}-${letter}.img`));

async function stateInRollout(id: string): Promise<unknown> {
  const { counts } = await operate('rollout', 'status', id);
  return counts;
}

it('a device that was cloned with its key is shown and quarantined', async () => {
  await rollOut('1.0.0');
  await makeSlots('one');
  expect(await update('one')).toMatchObject({ state: 'completed' });
  for (const part of ['', '-a.img', '-b.img'])
    await cp(at(`one${part}`), at(`two${part}`), { recursive: true });
  const image = await publish('2.0.0');
  await rollOut('2.0.0');
  // Both continue the same chain. The origin acknowledges reports of the first that the second never made.
  await update('one');
  await update('two');
  expect((await slot('one', 'a')).equals(image) && (await slot('two', 'a')).equals(image)).toBe(true);
  await testbed.until(async () => {
    const { devices } = await operate('device', 'list', '--product', product);
    return Array.isArray(devices) && devices.length === 1 && devices[0].quarantinedAt !== undefined;
  });
  const { stdout } = await testbed.run('sitecast', ['device', 'list']);
  expect(stdout).toContain('quarantined');
});

it('a gateway killed during a download is used again once it is back, and no chunk in place is fetched again', async () => {
  const id = await rollOut('1.0.0');
  await makeSlots('one');
  const before = await chunkBytesSent();
  const agent = testbed.start('sitecast-agent', ['run', ...aloneFlagsOf('one')]);
  const [, port = ''] = /:(\d+)$/.exec(gateway.url) ?? [];
  await testbed.until(async () => (await chunkBytesSent()) > before);
  await gateway.stop('SIGKILL');
  gateway = await startGateway(port);
  await testbed.until(async () => JSON.stringify(await stateInRollout(id)) === '{"completed":1}');
  expect((await slot('one', 'b')).equals(await readFile(at('1.0.0')))).toBe(true);
  await agent.stop();
});

async function chunkBytesSent(): Promise<number> {
  const text = await (await fetch(`${gateway.url}/metrics`)).text();
  return Number(/^sitecast_lan_sent_bytes_total\{kind="chunks"\} (\d+)/m.exec(text)?.[1] ?? 0);
}

it('devices keep working when the join tokens that they used up are deleted', async () => {
  const id = await rollOut('1.0.0');
  await makeSlots('one');
  expect(await update('one')).toMatchObject({ state: 'completed' });
  for (const token of [testbed.path('gw.token'), at('token')]) await rm(token);
  const [, port = ''] = /:(\d+)$/.exec(gateway.url) ?? [];
  await gateway.stop();
  gateway = await startGateway(port);
  await untilReady();
  expect(await update('one')).toMatchObject({ state: 'idle' });
  expect(await stateInRollout(id)).toEqual({ completed: 1 });
  await makeSlots('two');
  const newcomer = await testbed.run('sitecast-agent', ['update', ...aloneFlagsOf('two')]);
  expect(newcomer).toMatchObject({ exitCode: 2 });
  expect(newcomer.stderr).toContain('SITECAST_JOIN_TOKEN_MISSING');
});

it('a device waits for its first gateway, too', async () => {
  await rollOut('1.0.0');
  await makeSlots('one');
  const [, port = ''] = /:(\d+)$/.exec(gateway.url) ?? [];
  await gateway.stop();
  const once = await testbed.run('sitecast-agent', ['check', ...aloneFlagsOf('one')]);
  expect(once).toMatchObject({ exitCode: 4 });
  const agent = testbed.start('sitecast-agent', ['run', ...flagsOf('one'), '--log-level', 'warn']);
  await testbed.until(async () => agent.output.includes('no gateway to begin with yet'));
  gateway = await startGateway(port);
  await testbed.until(async () => (await slot('one', 'b')).length > 0);
  expect(await agent.stop()).toBe(0);
});

it('an unreachable origin does not block an update that its gateway has, and gets the reports later', async () => {
  const id = await rollOut('1.0.0');
  for (const name of ['one', 'two']) await makeSlots(name);
  // This fills the gateway's cache.
  expect(await update('one')).toMatchObject({ state: 'completed' });
  await testbed.run('sitecast-agent', ['check', ...aloneFlagsOf('two')]);
  const [, port = ''] = /:(\d+)$/.exec(origin.url) ?? [];
  await origin.stop('SIGKILL');
  expect(await update('two')).toMatchObject({ state: 'completed' });
  origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet(port)]);
  await testbed.until(async () => JSON.stringify(await stateInRollout(id)) === '{"completed":2}');
});

it('a gateway waits for an unreachable origin at its first start, then serves; SIGTERM ends the wait', async () => {
  const [, port = ''] = /:(\d+)$/.exec(origin.url) ?? [];
  await origin.stop();
  const args = ['serve', '--token-file', 'other.token', '--listen', '127.0.0.1:0'];
  const idle = testbed.start('sitecast-gateway', [...args, '--data', 'idle']);
  await testbed.until(async () => idle.output.includes('did not give the first root'));
  expect(await idle.stop()).toBe(0);
  const patient = testbed.start('sitecast-gateway', [...args, '--data', 'patient']);
  await testbed.until(async () => patient.output.includes('nothing listens there'));
  origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet(port)]);
  await testbed.until(async () => patient.output.includes('listens on'));
  expect(await patient.stop()).toBe(0);
});

it('an enrolled device that floods takes little of the WAN and the disk, and delays no other device', async () => {
  const id = await rollOut('1.0.0');
  await makeSlots('honest');
  const flooder = new TestMember(askFromAnotherHost, Date.now);
  const token = (await readFile(at('token'), 'utf8')).trim();
  expect(await flooder.enrol(token, { product })).toMatchObject({ status: 200 });
  const sentBefore = await metric(gateway, 'sitecast_wan_sent_bytes_total');
  const statuses: number[] = [];
  const end = new AbortController();
  const flood = async (): Promise<void> => {
    while (!end.signal.aborted) {
      const reports: unknown[] = [];
      for (let made = 0; made < 10; made += 1)
        reports.push(await flooder.next({ more: 'x'.repeat(60_000) }, sealUnchecked));
      statuses.push((await flooder.sendReports(reports)).status);
    }
  };
  const flooding = flood();
  await testbed.until(async () => statuses.includes(429), 'the flood to be refused');
  expect(await update('honest')).toMatchObject({ state: 'completed' });
  // The flooding device belongs to the rollout, too, and reports nothing about it.
  await testbed.until(async () => JSON.stringify(await stateInRollout(id)).includes('"completed":1'));
  end.abort();
  await flooding;
  // Of the megabytes only this much arrived: 256 KiB at once, and the reports of the honest device.
  expect(statuses.length).toBeGreaterThan(3);
  expect((await metric(gateway, 'sitecast_wan_sent_bytes_total')) - sentBefore).toBeLessThan(400_000);
  const { kept, anomalies } = await operate('device', 'show', flooder.id);
  expect(Object(kept).bytes).toBeLessThanOrEqual(256 * 1024);
  expect(anomalies).toEqual([]);
});

/** A host of its own: the gateway limits what one address may have verified, and the honest device sends from 127.0.0.1. */
async function askFromAnotherHost(
  path: string,
  { method, headers, body }: RequestInit = {},
): Promise<Response> {
  const asked = request(gateway.url + path, {
    method: method ?? 'GET',
    headers: Object.fromEntries(new Headers(headers)),
    localAddress: '127.0.0.20',
    agent: false,
  });
  asked.end(body instanceof Uint8Array ? body : undefined);
  const [answer] = await once(asked, 'response');
  return new Response(await buffer(answer), { status: answer.statusCode });
}

async function metric({ url }: Server, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\d+)`, 'm').exec(text)?.[1] ?? 0);
}

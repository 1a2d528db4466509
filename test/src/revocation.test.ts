import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { TestMember } from '@sitecast/origin/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';

let testbed: Testbed;
let origin: Server;
let gateway: Server;

beforeAll(async () => {
  testbed = await Testbed.open();
  origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', '--listen', '127.0.0.1:0']);
  await testbed.foundRepository(origin);
  await writeFile(testbed.path('image'), randomBytes(100_000));
  const about = ['--product', 'camera', '--version', '1.0.0', '--hardware', 'rpi4'];
  await testbed.json('sitecast', ['release', 'publish', 'image', ...about]);
  const token = await joinToken('gateway', '--site', 'north');
  const args = ['serve', '--data', 'gateway', '--listen', '127.0.0.1:0', '--token', token];
  gateway = await testbed.serve('sitecast-gateway', args);
  // A gateway is ready before the origin has accepted it.
  await testbed.until(async () => {
    const metrics = await (await fetch(`${gateway.url}/metrics`)).text();
    return metrics.includes('\nsitecast_enrolled 1');
  });
});
afterAll(() => testbed.close());

async function joinToken(kind: string, ...args: string[]): Promise<string> {
  const out = `${kind}-${randomBytes(4).toString('hex')}.token`;
  await testbed.json('sitecast', ['token', 'create', '--join', '--kind', kind, ...args, '--out', out]);
  return (await readFile(testbed.path(out), 'utf8')).trim();
}

const member = (kind: 'device' | 'gateway') =>
  new TestMember((path, init) => fetch(origin.url + path, init), Date.now, kind);
const atGateway = (one: TestMember) => one.at((path, init) => fetch(gateway.url + path, init));

it('a revoked device is refused by the origin at once, and by its gateway with the next metadata', async () => {
  const device = member('device');
  const token = await joinToken('device', '--site', 'north', '--product', 'camera');
  expect((await atGateway(device).enrol(token)).status).toBe(200);
  const first = await device.next();
  const through = await atGateway(device).sendReports([first]);
  expect(through).toMatchObject({ status: expect.toSatisfy((status: number) => status < 300) });

  await testbed.json('sitecast', ['device', 'revoke', device.id]);
  const second = await device.next();
  expect(await device.sendReports([second])).toMatchObject({
    status: 403,
    body: { code: 'SITECAST_DEVICE_REVOKED' },
  });
  await testbed.until(async () => (await atGateway(device).sendReports([second])).status === 403);
  expect(await atGateway(device).sendReports([second])).toMatchObject({ body: { code: 'SITECAST_REVOKED' } });
  expect(await testbed.json('sitecast', ['device', 'list', '--state', 'revoked'])).toMatchObject({
    devices: [{ id: device.id }],
  });
});

it('a revoked gateway is refused by the origin, and by other gateways', async () => {
  const other = member('gateway');
  expect((await other.enrol(await joinToken('gateway'), { site: 'south' })).status).toBe(200);
  const progress = { progress: [] };
  expect((await other.post('/site/v1/progress', progress)).status).toBe(202);
  await testbed.json('sitecast', ['gateway', 'revoke', other.id]);
  expect(await other.post('/site/v1/progress', progress)).toMatchObject({
    status: 403,
    body: { code: 'SITECAST_DEVICE_REVOKED' },
  });
  await testbed.until(
    async () => (await atGateway(other).post('/site/v1/progress', progress)).status === 403,
  );
});

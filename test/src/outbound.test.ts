import { readFile, writeFile } from 'node:fs/promises';
import { ELSEWHERE, EXPIRED, TEST_CA, TestProxy, VALID } from '@sitecast/shared/outbound/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Testbed, type Finished, type Server } from './testbed/testbed.ts';

let testbed: Testbed;
let proxy: TestProxy;
let origin: Server;
let gateway: Server;
/** The origin under a name of the test's own DNS, which only the proxy can resolve. */
let originUrl: string;
let gatewayUrl: string;
let env: Record<string, string>;

const portOf = ({ url }: Server): string => new URL(url).port;
const operate = (...args: string[]) => testbed.json('sitecast', args, { env });

beforeAll(async () => {
  testbed = await Testbed.open();
  proxy = await TestProxy.start();
  env = { HTTPS_PROXY: proxy.url, HTTP_PROXY: proxy.url, NO_PROXY: '' };
  for (const [name, text] of Object.entries({
    'ca.pem': TEST_CA,
    'cert.pem': VALID.cert,
    'key.pem': VALID.key,
  }))
    await writeFile(testbed.path(name), text);
  origin = await testbed.serve('sitecast-origin', [
    'serve',
    '--data',
    'origin',
    '--listen',
    '127.0.0.1:0',
    '--tls-cert',
    'cert.pem',
    '--tls-key',
    'key.pem',
  ]);
  originUrl = `https://server.test:${portOf(origin)}`;
});
afterAll(async () => {
  await testbed.close();
  await proxy.close();
});

let agents = 0;
/** Runs an agent that has met no gateway before. */
const agent = (url: string, more: string[], vars = env): Promise<Finished> =>
  testbed.run(
    'sitecast-agent',
    [
      'check',
      '--data',
      `agent-${++agents}`,
      '--gateway',
      url,
      '--root',
      'root.json',
      '--product',
      'camera',
      '--hardware',
      'rpi4',
      '--slot-a',
      'a.img',
      '--slot-b',
      'b.img',
      '--json',
      ...more,
    ],
    { env: vars },
  );

it('an operator works with an origin of a private authority, through a proxy', async () => {
  for (const role of ['root', 'release']) await operate('keys', 'create', role, '--no-passphrase');
  await operate('init', '--origin', originUrl, '--token-file', 'origin/admin.token', '--ca', 'ca.pem');
  expect(await readFile(testbed.path('sitecast.yaml'), 'utf8')).toContain('ca: ca.pem');
  expect(proxy.asked).toContain(`CONNECT server.test:${portOf(origin)}`);
  const direct = await testbed.run('sitecast', ['status'], { env: { ...env, NO_PROXY: '.test' } });
  expect(direct).toMatchObject({ exitCode: 4, stderr: expect.stringContaining('SITECAST_NAME_UNRESOLVED') });
});

it('a gateway learns of a release through the proxy as soon as it is published', async () => {
  await operate('token', 'create', '--join', '--kind', 'gateway', '--site', 'north', '--out', 'north.token');
  gateway = await testbed.serve(
    'sitecast-gateway',
    [
      'serve',
      '--data',
      'gateway',
      '--listen',
      '127.0.0.1:0',
      '--token-file',
      'north.token',
      '--ca',
      'ca.pem',
      '--poll',
      '1h',
      '--no-mdns',
      '--no-peers',
    ],
    { env },
  );
  gatewayUrl = `http://gateway.test:${portOf(gateway)}`;
  await writeFile(testbed.path('image'), 'an image');
  const about = ['--product', 'camera', '--version', '1.0.0', '--hardware', 'rpi4'];
  const { counter } = await operate('release', 'publish', 'image', ...about);
  expect(counter).toBe(1);
  const version = async (): Promise<unknown> =>
    (await testbed.json('sitecast', ['status'], { env })).versions;
  const mirrored = async (): Promise<string> =>
    (await fetch(`${gateway.url}/metadata/timestamp.json`)).text();
  expect(await version()).toMatchObject({ targets: 2 });
  const { timestamp } = Object(await version());
  await testbed.until(
    async () => JSON.parse(await mirrored()).signed.version >= timestamp,
    'the gateway to have the release',
  );
});

it('a device reaches its gateway through the configured proxy, or directly where it is exempt', async () => {
  for (const slot of ['a.img', 'b.img']) await writeFile(testbed.path(slot), 'slot');
  expect(await agent(gatewayUrl, [])).toMatchObject({ exitCode: 0 });
  expect(proxy.asked.some(line => line.startsWith(`GET ${gatewayUrl}/metadata/`))).toBe(true);
  const asked = proxy.asked.length;
  expect(await agent(gateway.url, [], { ...env, NO_PROXY: '127.0.0.0/8' })).toMatchObject({ exitCode: 0 });
  expect(await agent(gatewayUrl, [], { ...env, NO_PROXY: '.test' })).toMatchObject({
    exitCode: 4,
    stderr: expect.stringContaining('SITECAST_NAME_UNRESOLVED'),
  });
  expect(proxy.asked).toHaveLength(asked);
  const unknown = await agent(originUrl, []);
  expect(unknown).toMatchObject({
    exitCode: 4,
    stderr: expect.stringContaining('SITECAST_TLS_AUTHORITY_UNKNOWN'),
  });
  expect(await agent(originUrl, ['--ca', 'ca.pem'])).toMatchObject({ exitCode: 0 });
});

it('SIGHUP activates a renewed certificate and refuses one that does not fit; both are reported', async () => {
  const renew = async (cert: string, key: string, said: string): Promise<void> => {
    await writeFile(testbed.path('cert.pem'), cert);
    await writeFile(testbed.path('key.pem'), key);
    const before = origin.output.length;
    process.kill(origin.pid, 'SIGHUP');
    await testbed.until(async () => origin.output.slice(before).includes(said), said);
  };
  const status = async () => (await testbed.run('sitecast', ['status', '--json'], { env })).stderr;
  await renew(ELSEWHERE.cert, VALID.key, 'SITECAST_TLS_KEY_MISMATCH');
  expect(await status()).toBe('');
  await renew(ELSEWHERE.cert, ELSEWHERE.key, 'was read anew');
  expect(JSON.parse(await status())).toMatchObject({
    error: { code: 'SITECAST_TLS_NAME_MISMATCH', data: { proxy: `${proxy.url} (HTTPS_PROXY)` } },
  });
  await renew(EXPIRED.cert, EXPIRED.key, 'SITECAST_CERTIFICATE_EXPIRED');
  expect((await testbed.run('sitecast', ['status'], { env })).exitCode).toBe(5);
});

it('an origin recovers from a gateway behind the proxy', async () => {
  await origin.stop();
  const recovered = await testbed.json(
    'sitecast-origin',
    ['recover', '--data', 'origin', '--from', gatewayUrl],
    {
      env,
    },
  );
  expect(recovered).toMatchObject({ unread: [] });
  expect(proxy.asked).toContain(`GET ${gatewayUrl}/metadata/timestamp.json`);
});

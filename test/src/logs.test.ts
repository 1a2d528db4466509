import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Testbed, type Server } from './testbed/testbed.ts';

type Role = 'origin' | 'gateway' | 'agent';
const ROLES: Role[] = ['origin', 'gateway', 'agent'];
const LEVELS = ['debug', 'info', 'warn', 'error'];
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
/** The identity that a daemon has at the end. An origin has no id. */
const KNOWN_LAST: Record<Role, object> = {
  origin: {},
  gateway: { id: expect.stringMatching(/^12D3KooW/) },
  agent: { id: expect.stringMatching(/^12D3KooW/), ownName: 'cam-1' },
};
/** No server listens there. */
const NOWHERE = 'http://127.0.0.1:64999';
/** Standard error as a service manager passes it that has connected it to the journal. */
const AS_SERVICE = ['sh', '-c', 'JOURNAL_STREAM="$(stat -Lc %d:%i /proc/self/fd/2)" exec "$@"', 'sh'];

let testbed: Testbed;
/** Daemons that are started with defaults. */
const daemons: Partial<Record<Role, Server>> = {};
/** Services that lack what they need and log text. */
const services: Partial<Record<Role, Server>> = {};

/** The output, without the lines by which scripts wait for a start. */
const linesOf = (server: Server | undefined): string[] =>
  (server?.output ?? '')
    .split('\n')
    .filter(line => line !== '' && !/^(sitecast-\w+ |The admin's API token)/.test(line));

const device = (name: string, gateway: string): string[] =>
  `run --data ${name} --gateway ${gateway} --token-file device.token --name ${name} --product camera --hardware rpi4 --slot-a ${name}-a.img --slot-b ${name}-b.img --poll 1s --no-peers`.split(
    ' ',
  );

const serve = (data: string, ...more: string[]): string[] => [
  'serve',
  '--data',
  data,
  '--listen',
  '127.0.0.1:0',
  ...more,
];

beforeAll(async () => {
  testbed = await Testbed.open();
  const origin = await testbed.serve('sitecast-origin', serve('origin'));
  daemons.origin = origin;
  await testbed.foundRepository(origin);
  const token = ['token', 'create', '--join', '--out'];
  await testbed.json('sitecast', [
    ...token,
    'gateway.token',
    '--kind',
    'gateway',
    '--site',
    'north',
    '--uses',
    '2',
  ]);
  await testbed.json('sitecast', [
    ...token,
    'device.token',
    '--kind',
    'device',
    '--product',
    'camera',
    '--uses',
    '2',
  ]);

  const asService = { within: AS_SERVICE };
  const text = ['--log-format', 'text', '--log-level', 'trace'];
  services.origin = testbed.start('sitecast-origin', serve('other-origin', ...text), asService);
  const away = ['--origin', NOWHERE, '--token-file', 'gateway.token', '--no-peers', ...text];
  services.gateway = testbed.start('sitecast-gateway', serve('other-gateway', ...away), asService);
  services.agent = testbed.start('sitecast-agent', [...device('cam-2', NOWHERE), ...text], asService);

  const follow = serve('gateway', '--token-file', 'gateway.token', '--no-peers');
  const gateway = await testbed.serve('sitecast-gateway', follow);
  daemons.gateway = gateway;
  daemons.agent = testbed.start('sitecast-agent', device('cam-1', gateway.url));
  await testbed.until(
    async () => daemons.agent?.output.includes('"ownName"') === true,
    'the device to have its name',
  );
  await testbed.until(
    async () => ROLES.every(role => linesOf(services[role]).some(line => line.startsWith('<'))),
    'all to have logged',
  );
  await Promise.all([...Object.values(daemons), ...Object.values(services)].map(server => server.stop()));
});

afterAll(() => testbed.close());

it('logs with the priority of an error why a service does not start', async () => {
  const { exitCode, stderr } = await testbed.run('sitecast-gateway', serve('rootless', '--origin', NOWHERE), {
    within: AS_SERVICE,
  });
  expect(exitCode).toBe(2);
  expect(stderr).toMatch(/^<3>sitecast-gateway: .*\(SITECAST_ROOT_MISSING\)\n(<3> {2}.*\n)+$/);
});

it('continues where its log cannot be written, as on a full disk', async () => {
  const onFullDisk = ['sh', '-c', 'exec "$@" 2>/dev/full', 'sh'];
  const debug = serve('unlogged', '--log-level', 'debug');
  const origin = await testbed.serve('sitecast-origin', debug, { within: onFullDisk });
  for (let request = 0; request < 3; request += 1)
    expect((await fetch(`${origin.url}/healthz`)).ok).toBe(true);
  expect(await origin.stop()).toBe(0);
});

it.each(['gateway', 'agent'] as const)('a warning of a %s says what is wrong, and what to do', role => {
  const warning = linesOf(services[role]).find(line => line.startsWith('<4>warn') && line.includes('64999'));
  expect(warning).toMatch(/64999.* code=SITECAST_\w+ hint="|code=SITECAST_\w+ .*64999.* hint="/);
});

describe.each(ROLES)('%s', role => {
  it('logs one JSON object per line, each of the same form, where standard error is no terminal', () => {
    const lines = linesOf(daemons[role]).map((line): Record<string, unknown> => JSON.parse(line));
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) {
      expect(line).toMatchObject({
        time: expect.stringMatching(TIME),
        level: expect.toBeOneOf(LEVELS),
        role,
        msg: expect.any(String),
      });
      expect(JSON.stringify(line)).not.toContain('"stack"');
    }
    expect(lines.at(-1)).toMatchObject(KNOWN_LAST[role]);
  });

  it('logs text with a priority in place of the time, as a service with that setting', () => {
    const lines = linesOf(services[role]);
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines)
      expect(line).toMatch(new RegExp(`^<[3467]>(error|warn|info|debug) ${role}( [\\w.-]+)?: `));
  });
});

import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Server, Testbed } from '../src/testbed/testbed.ts';

// A site whose only way out is the port of another site's gateway in the fleet's network: real processes in network namespaces (Linux, root,
// iproute2). The origin, and that gateway's HTTP, listen on addresses that the site can't reach.

const HQ = `sc-cut-${process.pid}-hq`;
const SOUTH = `sc-cut-${process.pid}-south`;
const HQ_ADDRESS = '10.97.0.1';
const SOUTH_ADDRESS = '10.97.0.2';
const IMAGE_BYTES = 3_000_000;

const at = (space: string): string[] => ['ip', 'netns', 'exec', space];
const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });

let testbed: Testbed;
let origin: Server;

beforeAll(async () => {
  for (const space of [HQ, SOUTH]) {
    ip('netns', 'add', space);
    ip('-n', space, 'link', 'set', 'lo', 'up');
  }
  ip('link', 'add', 'line', 'netns', HQ, 'type', 'veth', 'peer', 'name', 'line', 'netns', SOUTH);
  for (const [space, address] of [
    [HQ, HQ_ADDRESS],
    [SOUTH, SOUTH_ADDRESS],
  ] as const) {
    ip('-n', space, 'addr', 'add', `${address}/24`, 'dev', 'line');
    ip('-n', space, 'link', 'set', 'line', 'up');
  }
  testbed = await Testbed.open();
  origin = await start('sitecast-origin', 'serve --data origin --listen 127.0.0.1:0 --log-level error', HQ);
  for (const role of ['root', 'release']) await operate('keys', 'create', role, '--no-passphrase');
  await operate('init', '--origin', origin.url, '--token-file', 'origin/admin.token');
  await operate('keys', 'create', 'fleet');
});
afterAll(async () => {
  await testbed.close();
  for (const space of [HQ, SOUTH]) ip('netns', 'delete', space);
});

const start = (
  name: 'sitecast-origin' | 'sitecast-gateway' | 'sitecast-agent',
  args: string,
  space: string,
) =>
  name === 'sitecast-agent'
    ? testbed.start(name, args.split(' '), { within: at(space) })
    : testbed.serve(name, args.split(' '), { within: at(space) });

const operate = (...args: string[]) => testbed.json('sitecast', args, { within: at(HQ) });

/** Until the only device of a product has the image, and the origin has its reports. */
async function rollOut(product: string, image: Buffer): Promise<void> {
  await writeFile(testbed.path(product), image);
  await operate(
    'release',
    'publish',
    product,
    '--product',
    product,
    '--version',
    '1.0.0',
    '--hardware',
    'rpi4',
  );
  const { id } = await operate('rollout', 'start', product, '1.0.0', '--all-at-once', '--soak', '0s');
  await testbed.until(async () => {
    const status = await operate('rollout', 'status', String(id));
    return status.state === 'completed' && status.total === 1;
  }, `the origin to have the reports of ${product}`);
}

async function addGateway(name: string, site: string, space: string, more: string): Promise<Server> {
  const kind = ['--join', '--kind', 'gateway', '--site', site, '--out', `${name}.token`];
  await operate('token', 'create', ...kind);
  const about = `serve --data ${name} --listen 127.0.0.1:0 --token-file ${name}.token --log-level info`;
  return start('sitecast-gateway', `${about} --fleet-key-file keys/fleet.key ${more}`, space);
}

it.each([
  ['with nothing but its neighbour’s address', 'named', `--gossip-peer /ip4/${HQ_ADDRESS}/tcp/7402`],
  ['that finds its neighbour by multicast DNS', 'found', `--gossip-listen /ip4/${SOUTH_ADDRESS}/tcp/7403`],
])(
  'a site %s installs what was published since it was cut off, and its reports arrive',
  async (_what, run, way) => {
    const listen = `--gossip-listen /ip4/${HQ_ADDRESS}/tcp/7402 --fleet-upload 1GiB --no-prefetch`;
    const near = await addGateway(`near-${run}`, 'north', HQ, listen);
    const far = await addGateway(`far-${run}`, 'south', SOUTH, way);
    expect(() => ip(...at(SOUTH).slice(1), 'curl', '-s', '-m', '2', origin.url)).toThrow('Command failed');
    for (const slot of ['a', 'b']) await writeFile(testbed.path(`${run}-${slot}.img`), '');
    await operate(
      'token',
      'create',
      '--join',
      '--kind',
      'device',
      '--site',
      'south',
      '--out',
      `${run}.token`,
    );
    const slots = `--slot-a ${testbed.path(`${run}-a.img`)} --slot-b ${testbed.path(`${run}-b.img`)}`;
    const about = `--product ${run} --hardware rpi4 --token-file ${run}.token --poll 1s --log-level error`;
    const agent = await start(
      'sitecast-agent',
      `run --data device-${run} --gateway ${far.url} ${about} ${slots} --no-peers`,
      SOUTH,
    );
    const image = randomBytes(IMAGE_BYTES);
    await rollOut(run, image);
    const slotImages = await Promise.all(
      ['a', 'b'].map(slot => readFile(testbed.path(`${run}-${slot}.img`))),
    );
    expect(slotImages.some(bytes => bytes.equals(image))).toBe(true);
    await agent.stop();
    await far.stop();
    await near.stop();
  },
);

import { randomBytes } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { type ChunkId, ChunkIndex, chunkPath } from '@sitecast/shared/content';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Filter } from './testbed/filter.ts';
import { Testbed, type Server } from './testbed/testbed.ts';

const IMAGE_BYTES = 6 * 2 ** 20;
/** The chunks that may be on their way to the killed gateway. The remaining gateway fetches them again. */
const MAX_SECOND_COPIES = 32;

let testbed: Testbed;
let origin: Server;
let wan: Filter;
const asked = new Map<string, number>();

beforeEach(async () => {
  asked.clear();
  testbed = await Testbed.open();
  for (const role of ['root', 'release'])
    await testbed.json('sitecast', ['keys', 'create', role, '--no-passphrase']);
  await testbed.json('sitecast', ['keys', 'create', 'fleet']);
  const fleet = ['--gossip-listen', '/ip4/127.0.0.1/tcp/0', '--fleet-key-file', 'keys/fleet.key'];
  origin = await testbed.serve('sitecast-origin', ['serve', '--data', 'origin', ...quiet, ...fleet]);
  await testbed.json('sitecast', ['init', '--origin', origin.url, '--token-file', 'origin/admin.token']);
  wan = await Filter.open(origin.url);
  wan.rule = ({ path }) => {
    if (path.startsWith('/chunks/')) asked.set(path, (asked.get(path) ?? 0) + 1);
    return 'pass';
  };
});
afterEach(async () => {
  wan.close();
  await testbed.close();
});

const quiet = ['--listen', '127.0.0.1:0', '--log-level', 'error'];

async function startGateway(
  name: string,
  site: string,
  { from = wan.url, more = [] }: { from?: string; more?: readonly string[] } = {},
): Promise<Server> {
  const about = ['--kind', 'gateway', '--site', site, '--out', `${name}.token`];
  await testbed.json('sitecast', ['token', 'create', '--join', ...about]);
  const upstream = ['--token-file', `${name}.token`, '--origin', from, '--poll', '1s'];
  const gossip = [
    '--gossip-listen',
    '/ip4/127.0.0.1/tcp/0',
    '--fleet-key-file',
    'keys/fleet.key',
    '--no-mdns',
  ];
  const args = ['serve', '--data', name, ...upstream, ...gossip, ...quiet, ...more];
  const gateway = await testbed.serve('sitecast-gateway', args);
  await testbed.until(async () => (await fetch(`${gateway.url}/readyz`)).ok);
  return gateway;
}

/** Publishes a release of fresh bytes and rolls it out. @returns the ids of its chunks */
async function release(version: string): Promise<ChunkId[]> {
  await writeFile(testbed.path(version), randomBytes(IMAGE_BYTES));
  const about = ['--product', 'camera', '--version', version, '--hardware', 'rpi4'];
  await testbed.json('sitecast', ['release', 'publish', version, ...about]);
  await testbed.json('sitecast', ['rollout', 'start', 'camera', version, '--all-at-once']);
  const folder = testbed.path('origin', 'repository', 'targets', 'releases');
  const indexes = (await readdir(folder)).filter(name => name.endsWith(`camera-${version[0]}.caibx`));
  const index = ChunkIndex.decode(await readFile(`${folder}/${indexes[0]}`));
  return Array.from({ length: index.count }, (_, at) => index.idAt(at));
}

async function metric({ url }: Server, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text.split('\n').find(one => one.startsWith(`${name} `));
  return Number(line?.slice(name.length + 1) ?? Number.NaN);
}

/** @returns the status; 0 without an answer */
async function statusOf({ url }: Server, id: ChunkId): Promise<number> {
  try {
    const response = await fetch(`${url}/chunks/${chunkPath(id)}`);
    await response.arrayBuffer();
    return response.status;
  } catch (error) {
    if (error instanceof TypeError) return 0;
    throw error;
  }
}

const total = (): number => [...asked.values()].reduce((sum, times) => sum + times, 0);

async function hasServed({ url }: Server, timestamp: Buffer): Promise<boolean> {
  const answer = await fetch(`${url}/metadata/timestamp.json`);
  return Buffer.from(await answer.arrayBuffer()).equals(timestamp);
}

it('two gateways that the origin has introduced to each other fetch each chunk once, even if one is killed', async () => {
  const one = await startGateway('one', 'lisbon');
  const two = await startGateway('two', 'lisbon');
  for (const gateway of [one, two]) {
    await testbed.until(async () => (await metric(gateway, 'sitecast_site_gateways')) === 2);
    // The connections are to the origin and to each other.
    await testbed.until(async () => (await metric(gateway, 'sitecast_gossip_connections')) === 2);
  }
  const ids = await release('1.0.0');
  const timestamp = await readFile(testbed.path('origin', 'repository', 'metadata', 'timestamp.json'));
  for (const gateway of [one, two]) await testbed.until(() => hasServed(gateway, timestamp));

  const half = ids.length >> 1;
  const askBoth = (id: ChunkId) => [one, one, two, two].map(gateway => statusOf(gateway, id));
  const first = await Promise.all(ids.slice(0, half).flatMap(askBoth));
  expect(new Set(first)).toEqual(new Set([200]));
  expect(total()).toBe(asked.size);
  expect(asked.size).toBe(half);

  const rest = ids.slice(half).map(id => [statusOf(one, id), statusOf(two, id)] as const);
  await testbed.until(async () => total() > half + 4);
  await one.stop('SIGKILL');
  const left = await Promise.all(rest.map(([, atTwo]) => atTwo));
  await Promise.all(rest.flat());
  expect(new Set(left)).toEqual(new Set([200]));
  expect(asked.size).toBe(ids.length);
  expect(total() - ids.length).toBeLessThanOrEqual(MAX_SECOND_COPIES);
  // Every second copy was counted.
  const counted =
    (await metric(two, 'sitecast_chunk_takeovers_total')) +
    (await metric(two, 'sitecast_chunk_disagreements_total'));
  expect(total() - ids.length).toBeLessThanOrEqual(counted);
});

it('a gateway that is cut off from the origin gets new rollouts and their chunks from one at another site', async () => {
  const near = await startGateway('near', 'lisbon', { from: origin.url });
  const far = await startGateway('far', 'porto', { more: ['--upstream', near.url] });
  await testbed.until(async () => (await metric(far, 'sitecast_gossip_connections')) === 2);
  wan.close();
  const ids = await release('1.0.0');
  const timestamp = await readFile(testbed.path('origin', 'repository', 'metadata', 'timestamp.json'));
  await testbed.until(() => hasServed(far, timestamp));
  // It may have heard of them a moment earlier than the other, which then gives no chunk of theirs yet.
  await Promise.all(ids.map(id => testbed.until(async () => (await statusOf(far, id)) === 200)));
  expect(total()).toBe(0);
  expect(await metric(near, 'sitecast_chunks_found_total{where="upstream"}')).toBe(ids.length);
});

it('a gateway with an old root, among others with a new one, gets the new root from a neighbour', async () => {
  const near = await startGateway('near', 'lisbon', { from: origin.url });
  const far = await startGateway('far', 'porto', { more: ['--upstream', near.url] });
  await testbed.until(async () => (await metric(far, 'sitecast_gossip_connections')) === 2);
  // It learns of the change, but can't reach the origin.
  wan.rule = () => ({ status: 503, body: {} });
  await testbed.json('sitecast', ['keys', 'renew', 'root']);
  await release('1.0.0');
  const timestamp = await readFile(testbed.path('origin', 'repository', 'metadata', 'timestamp.json'));
  await testbed.until(() => hasServed(far, timestamp));
  expect((await fetch(`${far.url}/metadata/2.root.json`)).status).toBe(200);
});

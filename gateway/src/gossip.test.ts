import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { fleetKeyToText, generateFleetKey } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { announcementOf, createFleetNode, type FleetNode } from '@sitecast/shared/swarm';
import { Strangers } from '@sitecast/shared/swarm/testing';
import { afterAll, afterEach, beforeEach, expect, it } from 'vitest';
import { startGateway } from './main.ts';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import {
  memoryLog,
  removeTemporaryDirectories,
  settingsFor,
  temporaryDirectory,
  GatewayHarness,
  until,
} from './testing/harness.ts';

const harness = new GatewayHarness();
const fleetKey = generateFleetKey();
const image = Buffer.alloc(50_000, 'a release ');
let node: FleetNode;
let fleetKeyFile: string;

beforeEach(async () => {
  const identity = new Identity(KeyPair.generate());
  node = await createFleetNode({ identity, listen: ['/ip4/127.0.0.1/tcp/0'], fleetKey });
  node.gossip.onAnnouncement(() => 'accept');
  fleetKeyFile = join(await temporaryDirectory(), 'fleet.key');
  await writeFile(fleetKeyFile, fleetKeyToText(fleetKey), { mode: 0o600 });
});
afterEach(async () => {
  await harness.closeAll();
  await node.close();
});
afterAll(removeTemporaryDirectories);

function newestSet({ repository }: FakeOrigin): Parameters<FleetNode['gossip']['announce']>[0] {
  const files = ['snapshot', 'rollouts'].map(
    role => [repository.pathOf(role).slice('metadata/'.length), repository.bytesOf(role)] as const,
  );
  return announcementOf(repository.root.version, repository.bytesOf('timestamp'), new Map(files));
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  await new Promise(resolve => server.close(resolve));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

const HOUR_MS = 3_600_000;

it('learns of a change while strangers without the key fill its gossip port with silent sockets', async () => {
  const strangers = new Strangers();
  try {
    const origin = await harness.silentOrigin(image);
    const gossipListen = [`/ip4/127.0.0.1/tcp/${await freePort()}`];
    const gateway = await harness.gateway(origin, { poll: HOUR_MS, gossipListen, fleetKeyFile });
    const port = Number(gossipListen[0]?.split('/').at(-1));
    await strangers.beSilent(port, 200);
    await node.dial(`${gossipListen[0]}/p2p/${gateway.id}`);
    await strangers.beSilent(port, 200);
    await until(() => node.gossip.neighbours.some(({ isInMesh }) => isInMesh), 'it is in the mesh');
    await origin.publishRelease('camera', 2, image);
    await origin.startRollout('camera', 2);
    const timestamp = origin.repository.bytesOf('timestamp');
    await node.gossip.announce(newestSet(origin));
    await until(
      async () => (await gateway.get('metadata/timestamp.json')).body.equals(timestamp),
      'the new set',
    );
    const metrics = (await gateway.get('metrics')).body.toString();
    expect(metrics).toMatch(/sitecast_dropped_total\{what="gossip"\} [1-9]/);
  } finally {
    await strangers.close();
  }
});

it('learns of a change from another gateway within a moment, and forwards it', async () => {
  const origin = await harness.silentOrigin(image);
  const gossip = { poll: HOUR_MS, gossipPeer: node.addresses, fleetKeyFile };
  const [near, far] = [await harness.gateway(origin, gossip), await harness.gateway(origin, gossip)];
  await until(
    () => node.gossip.neighbours.filter(({ isInMesh }) => isInMesh).length === 2,
    'both are in the mesh',
  );
  await origin.publishRelease('camera', 2, image);
  await origin.startRollout('camera', 2);
  const timestamp = origin.repository.bytesOf('timestamp');
  expect((await far.get('metadata/timestamp.json')).body.equals(timestamp)).toBe(false);
  await node.gossip.announce(newestSet(origin));
  for (const gateway of [near, far])
    await until(
      async () => (await gateway.get('metadata/timestamp.json')).body.equals(timestamp),
      'the new set',
    );
});

it('requests nothing for an announcement without valid signatures', async () => {
  const origin = await harness.silentOrigin(image);
  const gateway = await harness.gateway(origin, { poll: HOUR_MS, gossipPeer: node.addresses, fleetKeyFile });
  await until(() => node.gossip.neighbours.some(({ isInMesh }) => isInMesh), 'it is in the mesh');
  const announcement = newestSet(origin);
  // The requests of the start have been made by now.
  await until(() => origin.count('site/v1/gateways') > 1, 'it has told where it is, and asked for others');
  const before = origin.count('metadata/timestamp.json');
  await node.gossip.announce({ ...announcement, timestamp: Buffer.from('{"signed":{},"signatures":[]}') });
  await until(
    () => gateway.log.lines.some(({ message }) => message === 'a neighbour announced what is refused'),
    'it is refused',
  );
  expect(origin.count('metadata/timestamp.json')).toBe(before);
  // The valid announcement leads to one request. The invalid one caused none.
  await origin.publishRelease('camera', 2, image);
  await node.gossip.announce(newestSet(origin));
  await until(() => origin.count('metadata/timestamp.json') > before, 'the origin is asked');
  expect(origin.count('metadata/timestamp.json')).toBe(before + 1);
});

it("does not start without the fleet's key, and needs none where gossip is off", async () => {
  const origin = await harness.silentOrigin(image);
  const settings = await settingsFor(origin, { gossipListen: ['/ip4/127.0.0.1/tcp/0'] });
  await expect(startGateway(settings, { log: memoryLog() })).rejects.toMatchObject({
    code: 'SITECAST_FLEET_KEY_MISSING',
  });
  await harness.gateway(origin);
});

it('says that it passes its own address over among those of its peers', async () => {
  const origin = await harness.silentOrigin(image);
  const first = await harness.gateway(origin);
  await first.close();
  const own = `/ip4/127.0.0.1/tcp/7402/p2p/${first.id}`;
  const again = await harness.gateway(origin, { ...first.settings, gossipPeer: [own], fleetKeyFile });
  expect(again.log.lines.map(({ message }) => message)).toContain(
    '--gossip-peer names this gateway itself, which is passed over',
  );
});

const hasLan = Object.values(networkInterfaces()).some(found => found?.some(({ internal }) => !internal));

it.skipIf(!hasLan)(
  'finds another gateway by multicast DNS (skipped without a LAN), and writes nothing down that only that says',
  async () => {
    const origin = await harness.silentOrigin(image);
    const gossip = { gossipListen: ['/ip4/0.0.0.0/tcp/0'], mdns: true, fleetKeyFile };
    const [one, two] = [await harness.gateway(origin, gossip), await harness.gateway(origin, gossip)];
    for (const gateway of [one, two])
      await until(async () => (await gateway.metric('sitecast_gossip_connections')) >= 1, 'the other');
    const books = [one, two].map(({ settings }) => join(settings.data, 'gateways.json'));
    expect(books.filter(book => existsSync(book))).toEqual([]);
  },
);

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createFleetKeyFile, requireFleetKey } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import { type Announcement, createFleetNode, type FleetNode } from '@sitecast/shared/swarm';
import { until } from '@sitecast/shared/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { imageOf } from './testing/operator.ts';
import { randomChunks, temporaryDirectory } from './testing/setup.ts';
import { spawnOrigin, type SpawnedOrigin } from './testing/spawned.ts';

// Each start of a process takes a second or two on a busy machine.

let directory: ReturnType<typeof temporaryDirectory>;
let fleetKeyFile: string;
let origin: SpawnedOrigin | undefined;
let node: FleetNode | undefined;
beforeEach(async () => {
  directory = temporaryDirectory();
  fleetKeyFile = join(directory.path, 'fleet.key');
  await createFleetKeyFile(fleetKeyFile);
});
afterEach(async () => {
  await node?.close();
  await origin?.stop('SIGKILL');
  await directory.remove();
});

const gossip = () => ['--gossip-listen', '/ip4/127.0.0.1/tcp/0', '--fleet-key-file', fleetKeyFile];

it('announces the published state at its start, and each publication from then on', async () => {
  const data = join(directory.path, 'data');
  origin = await spawnOrigin(data);
  const { operator } = origin;
  await operator.initialise();
  await origin.stop();
  origin = await spawnOrigin(data, gossip());
  operator.connect((path, init) => fetch(`${origin?.url}${path}`, init), operator.token);

  const heard: Announcement[] = [];
  const identity = new Identity(KeyPair.generate());
  node = await createFleetNode({ identity, listen: [], fleetKey: await requireFleetKey(fleetKeyFile) });
  node.gossip.onAnnouncement(announcement => {
    heard.push(announcement);
    return 'accept';
  });
  const address = /"(\/ip4\/127\.0\.0\.1\/tcp\/\d+\/p2p\/\w+)"/.exec(origin.log())?.[1] ?? '';
  await node.dial(address);
  await until('the first announcement', () => heard.length === 1);
  expect(heard[0]?.files.size).toBe(0);
  await operator.publish('camera', imageOf(...randomChunks(1)));
  await until('the second announcement', () => heard.length === 2);
  const timestamp = await (await fetch(`${origin.url}/metadata/timestamp.json`)).arrayBuffer();
  expect(Buffer.from(heard[1]?.timestamp ?? []).equals(Buffer.from(timestamp))).toBe(true);
  expect([...(heard[1]?.files.keys() ?? [])].map(name => name.replace(/^\d+\./, '')).sort()).toEqual([
    'snapshot.json',
    'targets.json',
  ]);
});

it('says that a key has no effect where the network is not joined', async () => {
  origin = await spawnOrigin(join(directory.path, 'data'), gossip().slice(2));
  expect(origin.log()).toMatch(/without effect: --fleet-key-file/);
});

it("does not start without the fleet's key, or with one that others may read", async () => {
  const data = join(directory.path, 'data');
  await expect(spawnOrigin(data, gossip().slice(0, 2))).rejects.toThrow('SITECAST_FLEET_KEY_MISSING');
  const open = join(directory.path, 'open.key');
  writeFileSync(open, '0'.repeat(64), { mode: 0o644 });
  const wrong = join(directory.path, 'wrong.key');
  writeFileSync(wrong, 'no key', { mode: 0o600 });
  await expect(spawnOrigin(data, [...gossip().slice(0, 3), wrong])).rejects.toThrow(
    `${wrong} is no fleet's key`,
  );
  const args = [...gossip().slice(0, 3), open];
  await expect(spawnOrigin(data, args)).rejects.toThrow('SITECAST_KEY_PERMISSIONS');
});

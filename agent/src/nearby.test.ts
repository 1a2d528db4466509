import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFile, rm } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import { join } from 'node:path';
import { ASSIGNMENT_HEADER, showing } from '@sitecast/shared/fleet';
import { HttpClient, readBounded } from '@sitecast/shared/outbound';
import { connectionsToPeer, serveHttpStreams, type SwarmNode, urlOfPeer } from '@sitecast/shared/swarm';
import { until } from '@sitecast/shared/testing';
import { newIdentity, Nodes } from '@sitecast/shared/swarm/testing';
import { metadataPath } from '@sitecast/shared/trust';
import { newSigner } from '@sitecast/shared/trust/testing';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AgentState } from './state/agent-state.ts';
import { type DeviceChanges, TestDevice } from './testing/device.ts';
import { AgentHarness } from './testing/harness.ts';

const KIB = 1024;
const images = [randomBytes(64 * KIB), randomBytes(64 * KIB)];
const OPEN: DeviceChanges = { isOpenToPeers: true };

// A device that is up to date (`harness.device`), and one that was off. Their only gateway goes.
let harness: AgentHarness;
let late: TestDevice;
const nodes = new Nodes();

beforeEach(async () => {
  harness = await AgentHarness.open({ images: images.slice(0, 1) });
  late = await TestDevice.create([harness.gateway.url], harness.fleet.rootBytes);
  for (const device of [harness.device, late]) {
    await device.open(OPEN);
    await device.cycle();
  }
});
afterEach(async () => {
  await late.remove();
  await harness.close();
  await nodes.close();
});

const selfOf = (device: TestDevice) => device.parts.exchange?.self ?? { id: '', addresses: [] };
const introduce = (...peers: { id: string; addresses: readonly string[] }[]): void =>
  late.parts.exchange?.noteNamed(peers);
const stateOf = async (device: TestDevice): Promise<AgentState> =>
  JSON.parse(await readFile(join(device.directory, 'data', 'state.json'), 'utf8'));
const documentsOf = (device: TestDevice): Promise<unknown> =>
  device.parts.trust.document('rollouts/camera.json');

/** Release 2 is rolled out; the device that is up to date installs it, and the gateway is gone. */
async function publishAndCut(): Promise<void> {
  const [, image = Buffer.alloc(0)] = images;
  harness.fleet.addRelease({ counter: 2, image });
  harness.fleet.camera.rollouts = [];
  harness.fleet.addRollout(2);
  await harness.fleet.publishAll();
  expect(await harness.device.cycle()).toMatchObject({ state: 'completed' });
  await harness.gateway.close();
}

async function expectVerified(): Promise<void> {
  expect(await late.cycle()).toMatchObject({
    state: 'waiting',
    waitingFor: 'lease',
    reason: { code: 'SITECAST_LEASE_UNREACHABLE' },
  });
  expect(await late.slot('A')).toEqual(images[1]);
  expect(late.parts.stateFile.current).toMatchObject({
    update: { phase: 'verified', release: { counter: 2 } },
    slots: { A: { state: 'verified' } },
  });
  expect(late.parts.trust.timestampVersion).toBe(harness.device.parts.trust.timestampVersion);
}

describe('a device whose gateways are gone', () => {
  it('gets metadata, signed files and chunks from another one, also from one that was restarted', async () => {
    await publishAndCut();
    await harness.device.close();
    // As after an update by a recipe: its index was never fetched, and lies beside the slot alone.
    const { indexSha256 = '' } = (await stateOf(harness.device)).slots.A;
    await rm(join(harness.device.directory, 'data', 'documents', indexSha256));
    await harness.device.open(OPEN);
    introduce(selfOf(harness.device));
    await expectVerified();
    // No gateway has answered: the status says so, and when one answered last.
    const { problem } = late.parts.status.current.metadata;
    expect(problem?.code).toBe('SITECAST_UPSTREAM_UNREACHABLE');
  });

  it('remembers over a restart whom a gateway has named', async () => {
    introduce(selfOf(harness.device));
    await publishAndCut();
    await late.close({ isCut: true });
    await late.open(OPEN);
    await expectVerified();
  });

  it('finds one by multicast DNS where no gateway has ever named any', async () => {
    await publishAndCut();
    const peers = { listen: '/ip4/0.0.0.0/tcp/0', isDiscovering: true, maxUploadBytesPerS: undefined };
    for (const device of [harness.device, late]) {
      await device.close();
      await device.open({ ...OPEN, settings: { peers } });
    }
    const { exchange, trust } = late.parts;
    await until('it has found the other', () =>
      (exchange?.sources() ?? []).some(({ url }) => url.endsWith(harness.device.id)),
    );
    expect(exchange?.knownDevices).toBeGreaterThan(1);
    // Other machines of this network may be asked first, and rest then.
    const { timestampVersion } = harness.device.parts.trust;
    await until('it has followed the other', async () => {
      await late.cycle();
      return trust.timestampVersion === timestampVersion;
    });
    await expectVerified();
  });

  it('follows the repository over roots that came while it was away', async () => {
    await late.close();
    for (let rotation = 0; rotation < 3; rotation += 1) {
      harness.fleet.setSigners('timestamp', [newSigner()]);
      // Signed by the old and the new keys of the root.
      const [before = newSigner()] = harness.fleet.signers.get('root') ?? [];
      const next = newSigner();
      harness.fleet.setSigners('root', [next]);
      harness.fleet.signers.set('root', [before, next]);
      await harness.fleet.publish('root');
      harness.fleet.signers.set('root', [next]);
      await harness.fleet.publishAll();
      await harness.device.cycle();
    }
    await publishAndCut();
    await harness.device.close();
    await harness.device.open(OPEN);
    await late.open(OPEN);
    introduce(selfOf(harness.device));
    await expectVerified();
  });

  it('is not held up by neighbours that are frozen, lie, hang or speak nothing, and takes nothing of what is false', async () => {
    const frozen = harness.fleet.snapshotOfFiles();
    await publishAndCut();
    const served: string[] = [];
    const answering =
      (name: string, answer: (path: string) => Uint8Array | undefined): RequestListener =>
      ({ url = '' }, response) => {
        served.push(name);
        const bytes = answer(url.slice(1));
        response.writeHead(bytes ? 200 : 404).end(bytes);
      };
    const asFrozen = (path: string): Uint8Array | undefined => {
      const bytes = frozen.get(path);
      return bytes instanceof Uint8Array ? bytes : undefined;
    };
    const lying = (path: string): Uint8Array | undefined => {
      const bytes = asFrozen(path);
      if (!path.endsWith('timestamp.json') || !bytes) return bytes;
      const timestamp = JSON.parse(Buffer.from(bytes).toString());
      timestamp.signed.version = 2 ** 40;
      return Buffer.from(JSON.stringify(timestamp));
    };
    const peers = [
      await stranger(answering('frozen', asFrozen)),
      await stranger(answering('lying', lying)),
      await stranger(() => served.push('hanging')),
      await nodes.site(),
    ].map(({ id, addresses }) => ({ id, addresses }));
    introduce(...peers, selfOf(harness.device));
    // Three at once, drawn by chance: those that are of no use rest, so after three rounds all were asked.
    const isThere = () => late.parts.trust.timestampVersion === harness.device.parts.trust.timestampVersion;
    for (let round = 0; round < 3 && !isThere(); round += 1) await late.cycle();
    await expectVerified();
    for (let round = 0; round < 3 && !served.includes('lying'); round += 1) await late.cycle();
    expect(served).toContain('lying');
  });

  it('lets one rest that claims newer metadata and gives an old root as the next one', async () => {
    const old = harness.fleet.snapshotOfFiles();
    await publishAndCut();
    const served: string[] = [];
    const bytesAt = (path: string): Uint8Array | undefined => {
      const bytes = old.get(path.endsWith('root.json') ? 'metadata/1.root.json' : path);
      return bytes instanceof Uint8Array ? bytes : undefined;
    };
    const { id, addresses } = await stranger(({ url = '' }, response) => {
      served.push(url);
      let bytes = bytesAt(url.slice(1));
      if (url.endsWith('timestamp.json') && bytes) {
        const timestamp = JSON.parse(Buffer.from(bytes).toString());
        timestamp.signed.version = 2 ** 40;
        bytes = Buffer.from(JSON.stringify(timestamp));
      }
      response.writeHead(bytes ? 200 : 404).end(bytes);
    });
    introduce({ id, addresses }, selfOf(harness.device));
    await expectVerified();
    expect(served).toEqual(['/metadata/timestamp.json', '/metadata/2.root.json']);
    expect(await late.parts.trust.hasNewsNearby(new AbortController().signal)).toBe(false);
    await late.cycle();
    expect(served).toHaveLength(2);
  });

  it('asks its gateway again first once that is back, and gets its lease there', async () => {
    await publishAndCut();
    introduce(selfOf(harness.device));
    await expectVerified();
    await harness.gateway.listen();
    expect(await late.cycle()).toMatchObject({ state: 'completed' });
    expect(late.parts.trust.clock().state).toBe('ok');
  });
});

/** A machine that speaks HTTP on the site's network. */
async function stranger(listener: RequestListener): Promise<SwarmNode> {
  const node = await nodes.site();
  await serveHttpStreams(node, createServer(listener), { isOpen: true });
  return node;
}

describe('what a device gives others of its site', () => {
  const path = 'metadata/timestamp.json';

  async function asker() {
    const node = await nodes.site();
    const { addresses } = selfOf(harness.device);
    const id = await node.dial(addresses[0] ?? '');
    const client = new HttpClient(`${urlOfPeer(id)}/`, {
      connections: connectionsToPeer(node, id),
      code: 'SITECAST_UPSTREAM_UNREACHABLE',
    });
    const ask = (what: string, headers: Record<string, string> = {}, method: 'GET' | 'POST' = 'GET') =>
      client.exchange(what, { headers, method, timeoutMs: 10_000 }, async ({ status, body }) => ({
        status,
        body: await readBounded(body, KIB * KIB),
      }));
    const member = async (changes: { site?: string } = {}, assigned = node.id) =>
      showing(Buffer.from(JSON.stringify(await harness.fleet.assign(assigned, changes))));
    return { id: node.id, ask, member };
  }

  it('is for members of the site that show their assignment, and only the files of the repository, to read', async () => {
    const { ask, member } = await asker();
    const shown = await member();
    const { status, body } = await ask(path, shown);
    expect(status).toBe(200);
    expect(body).toEqual(Buffer.from(harness.fleet.bytesOf('timestamp')));
    const { version } = harness.fleet.targetsOf('rollouts');
    expect((await ask(`metadata/${metadataPath('rollouts', version)}`, shown)).status).toBe(200);
    const others = [
      `metadata/${metadataPath('rollouts', version + 1)}`,
      `metadata/${metadataPath('targets', undefined)}`,
      `targets/rollouts/${'0'.repeat(64)}.camera.json`,
      'targets/../state.json',
      'metadata/..%2fstate.json',
      'chunks/00',
      'site/v1/peers',
      '',
    ];
    const statuses = [];
    for (const other of others) statuses.push((await ask(other, shown)).status);
    expect(statuses).toEqual(others.map(() => 404));
    expect((await ask(path, shown, 'POST')).status).toBe(404);
  });

  it('is not for strangers, other sites, or those that show the assignment of another machine', async () => {
    const { ask, member } = await asker();
    for (const headers of [
      {},
      { [ASSIGNMENT_HEADER]: 'e30=' },
      await member({ site: 'south' }),
      await member({}, harness.device.id),
    ])
      expect((await ask(path, headers)).status).toBe(403);
  });

  it('is not for a member that was revoked, as soon as this device knows that', async () => {
    const { id, ask, member } = await asker();
    const shown = await member();
    expect((await ask(path, shown)).status).toBe(200);
    await harness.fleet.revoke(id);
    await harness.device.cycle();
    expect((await ask(path, shown)).status).toBe(403);
  });
});

it('many versions of a rollouts file push out no manifest and no index that a neighbour may need', async () => {
  await publishAndCut();
  await harness.gateway.listen();
  for (let version = 0; version < 20; version += 1) {
    await harness.fleet.revoke(newIdentity().id);
    await harness.device.cycle();
  }
  expect(await documentsOf(harness.device)).toBeDefined();
  await harness.gateway.close();
  introduce(selfOf(harness.device));
  await expectVerified();
});

it('a device whose port for others is taken says so in its status, and listens once it is free', async () => {
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const address = taken.address();
  const place = `/ip4/127.0.0.1/tcp/${typeof address === 'object' ? address?.port : ''}`;
  try {
    await late.close();
    const peers = { listen: place, isDiscovering: false, maxUploadBytesPerS: undefined };
    await late.open({ ...OPEN, settings: { peers } });
    expect(late.parts.status.current.peers?.trouble).toMatch(
      /reach this one on .+ \(EADDRINUSE\); it is tried again/,
    );
    expect(selfOf(late).addresses).toEqual([]);
    taken.close();
    await until('it to listen', () => late.parts.status.current.peers?.trouble === undefined);
    expect(selfOf(late).addresses).toEqual([`${place}/p2p/${late.id}`]);
  } finally {
    taken.close();
  }
});

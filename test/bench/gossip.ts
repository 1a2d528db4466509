import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type FakeOrigin,
  removeTemporaryDirectories,
  type TestGateway,
  TestWorld,
} from '@sitecast/gateway/testing';
import { fleetKeyToText, generateFleetKey } from '@sitecast/shared/fleet';
import { Identity } from '@sitecast/shared/identity';
import { KeyPair } from '@sitecast/shared/signing';
import {
  type Announcement,
  announcementOf,
  createFleetNode,
  encodeAnnouncement,
  type FleetNode,
} from '@sitecast/shared/swarm';
import { type Benchmark, median, type Row } from './benchmark.ts';
import { inScratch } from './scratch.ts';

const GATEWAYS = 50;
const PUBLICATIONS = 5;
/** Others that a gateway knows at its start, besides the first node: those that began before it. */
const KNOWN = 3;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const SETTLE_MS = 15_000;
/** More than one ping (5 minutes) of each connection. Set to fewer for a first look. */
const IDLE_MS = Number(process.env.SITECAST_BENCH_IDLE_MIN ?? 6) * 60_000;

export const gossipBenchmark: Benchmark = {
  name: 'gossip',
  what: `${GATEWAYS} gateways in one process that hear of changes by gossip alone: from the announcement to the last one's verified set, bytes of each, and of a day without news (measured for ${IDLE_MS / 60_000} minutes)`,
  run: () =>
    inScratch(async scratch => {
      const world = new TestWorld();
      const traffic = new Traffic();
      try {
        return await run(world, traffic, scratch);
      } finally {
        traffic.stop();
        await world.closeAll();
        await removeTemporaryDirectories();
      }
    }),
};

async function run(world: TestWorld, traffic: Traffic, scratch: string): Promise<Row[]> {
  const fleetKey = generateFleetKey();
  const fleetKeyFile = join(scratch, 'fleet.key');
  await writeFile(fleetKeyFile, fleetKeyToText(fleetKey), { mode: 0o600 });
  const origin = await silentOrigin(world);
  const identity = new Identity(KeyPair.generate());
  const first = await createFleetNode({ identity, listen: ['/ip4/127.0.0.1/tcp/0'], fleetKey });
  first.gossip.onAnnouncement(() => 'accept');
  for (const address of first.addresses) traffic.ports.add(portOf(address));
  try {
    const gateways = await startGateways(world, origin, { first, fleetKeyFile });
    for (const gateway of gateways) traffic.ports.add(portOf(addressOf(gateway)));
    await sleep(SETTLE_MS);
    const rounds: { tookMs: number; bytes: number }[] = [];
    let announcedBytes = 0;
    for (let round = 0; round < PUBLICATIONS; round += 1) {
      await origin.startRollout('camera', 1);
      const announcement = newsOf(origin);
      announcedBytes = encodeAnnouncement(announcement).length;
      const before = traffic.bytes;
      const tookMs = await lastHearsAfter(gateways, origin, () => first.gossip.announce(announcement));
      await sleep(2000);
      rounds.push({ tookMs, bytes: traffic.bytes - before });
    }
    await sleep(SETTLE_MS);
    const before = traffic.bytes;
    await sleep(IDLE_MS);
    const idle = ((traffic.bytes - before) / GATEWAYS) * (DAY_MS / IDLE_MS) * 2;
    // What goes out of one comes into another: each pays for both.
    const perGateway = (2 * median(rounds.map(({ bytes }) => bytes))) / GATEWAYS;
    return [
      row(
        'from announcement to the last verified set, median',
        `${Math.round(median(rounds.map(r => r.tookMs)))} ms`,
      ),
      row('… the slowest', `${Math.round(Math.max(...rounds.map(r => r.tookMs)))} ms`),
      row('one announcement', `${announcedBytes} bytes`),
      row(
        'bytes of a gateway for it, in and out',
        `${Math.round(perGateway)} (${(perGateway / announcedBytes).toFixed(1)} announcements)`,
      ),
      row('connections of a gateway', ((2 * traffic.connections) / GATEWAYS).toFixed(1)),
      row('bytes of a gateway in a day without news, in and out', `${(idle / 1e6).toFixed(2)} MB`),
    ];
  } finally {
    await first.close();
  }
}

const row = (what: string, figure: string): Row => ({ what, figure });

/** Whoever waits for its changes hears nothing. */
async function silentOrigin(world: TestWorld): Promise<FakeOrigin> {
  const origin = await world.origin();
  origin.repository.listsHashes = true;
  await origin.publishRelease('camera', 1, Buffer.alloc(50_000, 'a release '));
  await origin.startRollout('camera', 1);
  origin.misbehave = (request, response) => {
    if (request.headers.prefer === undefined) return false;
    response.writeHead(304).end();
    return true;
  };
  return origin;
}

async function startGateways(
  world: TestWorld,
  origin: FakeOrigin,
  { first, fleetKeyFile }: { first: FleetNode; fleetKeyFile: string },
): Promise<TestGateway[]> {
  const gateways: TestGateway[] = [];
  const addresses: string[] = [];
  for (let at = 0; at < GATEWAYS; at += 1) {
    const known = addresses.slice(-KNOWN);
    const gateway = await world.gateway(origin, {
      poll: HOUR_MS,
      gossipListen: ['/ip4/127.0.0.1/tcp/0'],
      gossipPeer: [...first.addresses, ...known],
      fleetKeyFile,
    });
    addresses.push(addressOf(gateway));
    gateways.push(gateway);
  }
  return gateways;
}

function addressOf({ log }: TestGateway): string {
  const found = /\/ip4\/[^"]+/.exec(JSON.stringify(log.lines.find(line => 'addresses' in line.fields)));
  if (!found) throw new Error('a gateway is not in the network');
  return found[0];
}

function newsOf({ repository }: FakeOrigin): Announcement {
  const files = ['snapshot', 'rollouts'].map(
    role => [repository.pathOf(role).slice('metadata/'.length), repository.bytesOf(role)] as const,
  );
  return announcementOf(repository.root.version, repository.bytesOf('timestamp'), new Map(files));
}

/** Every gateway is waited at as a device does. */
async function lastHearsAfter(
  gateways: readonly TestGateway[],
  { repository }: FakeOrigin,
  announce: () => Promise<unknown>,
): Promise<number> {
  const waiting = gateways.map(async gateway => {
    const path = `${gateway.url}/metadata/timestamp.json`;
    const present = await fetch(path);
    const etag = present.headers.get('etag') ?? '';
    await present.arrayBuffer();
    return async () => {
      const answer = await fetch(path, { headers: { prefer: 'wait=55', 'if-none-match': etag } });
      if (!Buffer.from(await answer.arrayBuffer()).equals(repository.bytesOf('timestamp')))
        throw new Error('a gateway has something else');
      return performance.now();
    };
  });
  const hear = await Promise.all(waiting);
  const heard = hear.map(wait => wait());
  await sleep(1000);
  const beganMs = performance.now();
  await announce();
  return Math.max(...(await Promise.all(heard))) - beganMs;
}

/** What goes over the connections of the fleet's network, all of which have both ends in this process: HTTP isn't counted. */
class Traffic {
  /** Where nodes of that network listen. */
  readonly ports = new Set<number>();
  readonly #sockets: { socket: Socket; port: number }[] = [];
  readonly #note = (message: unknown): void => {
    const socket: unknown = Reflect.get(Object(message), 'socket');
    if (!(socket instanceof Socket)) return;
    socket.once('connect', () => this.#sockets.push({ socket, port: socket.remotePort ?? 0 }));
  };

  constructor() {
    subscribe('net.client.socket', this.#note);
  }

  get connections(): number {
    return this.#ofGossip().filter(({ destroyed }) => !destroyed).length;
  }

  /** Payload of TCP, in both directions. */
  get bytes(): number {
    return this.#ofGossip().reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, 0);
  }

  stop(): void {
    unsubscribe('net.client.socket', this.#note);
  }

  #ofGossip(): Socket[] {
    return this.#sockets.filter(({ port }) => this.ports.has(port)).map(({ socket }) => socket);
  }
}

const portOf = (address: string): number => Number(/\/tcp\/(\d+)/.exec(address)?.[1]);

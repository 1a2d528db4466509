import { setTimeout as sleep } from 'node:timers/promises';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTemporaryDirectories, type TestGateway, GatewayHarness } from '@sitecast/gateway/testing';
import { fleetKeyToText, generateFleetKey } from '@sitecast/shared/fleet';
import { type Announcement, announcementOf, encodeAnnouncement } from '@sitecast/shared/swarm';
import type { FakeOrigin } from '@sitecast/shared/testing/origin';
import { type Benchmark, median, type Row } from './benchmark.ts';
import { FleetOfNodes } from './gossip-fleet.ts';
import { behind, carriedBy, carriedDuring, DelayedLine, portOf } from './gossip-net.ts';
import { inScratch } from './scratch.ts';

const GATEWAYS = 50;
const ROUNDS = 5;
/** How many others a gateway dials besides the origin: `ENOUGH_CONNECTIONS` leaves this many. */
const OTHERS = 3;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const SETTLE_MS = 15_000;
/** How long to wait after a message until no more traffic follows from it. */
const ECHO_MS = 6000;
/** Connections are pinged every 5 minutes: in exactly that time each is pinged once. */
const PING_PERIOD_MS = 5 * MINUTE_MS;
const IDLE_MS = Number(process.env.SITECAST_BENCH_IDLE_MIN ?? 5) * MINUTE_MS;

export const gossipBenchmark: Benchmark = {
  name: 'gossip',
  what: `${GATEWAYS} gateways: copies and bytes of a message over late lines (headers of TCP/IP with them), bytes of a day without news (from ${IDLE_MS / MINUTE_MS} minutes; what goes over HTTP isn't in it), and the time to the last verified set`,
  run: () =>
    inScratch(async scratch => {
      const harness = new GatewayHarness();
      try {
        const origin = await harness.silentOrigin(Buffer.alloc(50_000, 'a release '));
        return [...(await network(origin)), ...(await gateways(harness, origin, scratch))];
      } finally {
        await harness.closeAll();
        await removeTemporaryDirectories();
      }
    }),
};

const row = (what: string, figure: string): Row => ({ what, figure });
const ms = (figures: readonly number[]) =>
  `${Math.round(median(figures))} ms, the slowest ${Math.round(Math.max(...figures))} ms`;

/** Only the fleet's network: nodes that wait a moment before a verdict, and verify nothing. */
async function network(origin: FakeOrigin): Promise<Row[]> {
  const fleet = await FleetOfNodes.open(GATEWAYS, OTHERS);
  try {
    await sleep(SETTLE_MS);
    const renewal = await rounds(fleet, async () => {
      await origin.repository.publish('timestamp');
      return newsOf(origin, []);
    });
    const publication = await rounds(fleet, async () => {
      await origin.startRollout('camera', 1);
      return newsOf(origin, ['snapshot', 'rollouts']);
    });
    await sleep(SETTLE_MS);
    const { connections } = carriedBy(fleet.ports);
    const idleBytes = await carriedDuring(fleet.ports, async () => {}, IDLE_MS);
    const perDay = perGateway(idleBytes) * (DAY_MS / IDLE_MS);
    const pings =
      IDLE_MS > 0 && IDLE_MS % PING_PERIOD_MS === 0
        ? ''
        : ' (NOT of whole periods of pings, which are its most)';
    return [
      row('connections of a gateway', perGateway(connections).toFixed(1)),
      ...described('renewed timestamp', renewal),
      ...described('publication', publication),
      row(`bytes of a gateway in a day: pings${pings}`, mb(perDay)),
      row('… 24 renewals', mb(renewal.bytes * 24)),
    ];
  } finally {
    await fleet.close();
  }
}

interface Figures {
  announcedBytes: number;
  copies: number;
  /** Of one gateway, in and out. */
  bytes: number;
  tookMs: number[];
}

async function rounds(fleet: FleetOfNodes, next: () => Promise<Announcement>): Promise<Figures> {
  const found = { copies: [] as number[], bytes: [] as number[], tookMs: [] as number[] };
  let announcedBytes = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const announcement = await next();
    announcedBytes = encodeAnnouncement(announcement).length;
    const bytes = await carriedDuring(
      fleet.ports,
      async () => found.tookMs.push(await fleet.announce(announcement)),
      ECHO_MS,
    );
    found.bytes.push(perGateway(bytes));
    found.copies.push(fleet.takeCopies() / GATEWAYS);
  }
  return { announcedBytes, tookMs: found.tookMs, copies: median(found.copies), bytes: median(found.bytes) };
}

function described(what: string, { announcedBytes, copies, bytes, tookMs }: Figures): Row[] {
  return [
    row(`${what} of ${announcedBytes} bytes: copies that come to a gateway`, copies.toFixed(1)),
    row('… bytes of a gateway, in and out', String(Math.round(bytes))),
    row('… until the last has it', ms(tookMs)),
  ];
}

/** Bytes that go out of one gateway go into another: each pays for both. */
const perGateway = (sum: number): number => (2 * sum) / GATEWAYS;
const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`;

/** Real gateways, which learn of changes only by gossip. */
async function gateways(harness: GatewayHarness, origin: FakeOrigin, scratch: string): Promise<Row[]> {
  const fleetKey = generateFleetKey();
  const fleetKeyFile = join(scratch, 'fleet.key');
  await writeFile(fleetKeyFile, fleetKeyToText(fleetKey), { mode: 0o600 });
  const fleet = await FleetOfNodes.open(0, 0, fleetKey);
  const lines: DelayedLine[] = [];
  try {
    const all: TestGateway[] = [];
    const addresses: string[] = [];
    for (let at = 0; at < GATEWAYS; at += 1) {
      const gossipPeer = [fleet.originAddress, ...addresses.slice(-OTHERS)];
      const gossipListen = ['/ip4/127.0.0.1/tcp/0'];
      const gateway = await harness.gateway(origin, {
        poll: HOUR_MS,
        gossipListen,
        gossipPeer,
        fleetKeyFile,
      });
      const line = await DelayedLine.open(portOf(addressOf(gateway)));
      lines.push(line);
      addresses.push(behind(line, addressOf(gateway)));
      all.push(gateway);
    }
    await sleep(SETTLE_MS);
    const tookMs: number[] = [];
    const cpuMs: number[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      await origin.startRollout('camera', 1);
      const heard = await listen(all, origin);
      const before = process.cpuUsage();
      tookMs.push(await heard(() => fleet.announce(newsOf(origin, ['snapshot', 'rollouts']))));
      const { user, system } = process.cpuUsage(before);
      cpuMs.push((user + system) / 1000 / GATEWAYS);
      await sleep(2000);
    }
    return [
      row('from announcement to the last verified set, all in one process', ms(tookMs)),
      row('… CPU of a gateway for it', `${Math.round(median(cpuMs))} ms`),
    ];
  } finally {
    for (const line of lines) line.close();
    await fleet.close();
  }
}

function addressOf({ log }: TestGateway): string {
  const found = /\/ip4\/[^"]+/.exec(JSON.stringify(log.lines.find(line => 'addresses' in line.fields)));
  if (!found) throw new Error('a gateway is not in the network');
  return found[0];
}

/** The announcement in the same bytes as the origin's and every gateway's that had the set before. */
function newsOf({ repository }: FakeOrigin, changed: readonly string[]): Announcement {
  const files = changed.map(
    role => [repository.pathOf(role).slice('metadata/'.length), repository.bytesOf(role)] as const,
  );
  return announcementOf(repository.root.version, repository.bytesOf('timestamp'), new Map(files));
}

/** Waits at every gateway like a device. @returns a function that measures, in ms, until the last gateway has the announced set */
async function listen(
  all: readonly TestGateway[],
  { repository }: FakeOrigin,
): Promise<(announce: () => Promise<unknown>) => Promise<number>> {
  const waits = await Promise.all(
    all.map(async gateway => {
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
    }),
  );
  const heard = Promise.all(waits.map(wait => wait()));
  await sleep(1000);
  return async announce => {
    const beganMs = performance.now();
    await announce();
    return Math.max(...(await heard)) - beganMs;
  };
}

import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestMember } from '@sitecast/origin/testing';
import { type ChunkId, ChunkIndex, type ChunkStore, chunkIdToHex, chunkPath } from '@sitecast/shared/content';
import { createSiteNode, HttpPeers, PeerStore, type SwarmNode } from '@sitecast/shared/swarm';
import pLimit from 'p-limit';
import { SwarmTestbed } from '../src/testbed/swarm-testbed.ts';
import { type Benchmark, CannotMeasure, type Row, ratio } from './benchmark.ts';
import { cpuS, fetchAll, rssMib, withBareServer, withNginx } from './gateway-serving.ts';

const MIB = 2 ** 20;
const IMAGE_MIB = 32;
const CLIENTS = 16;
/** As many requests as an update has open with one peer. */
const PEER_REQUESTS = 4;
const SETTLE_MS = 5000;

/** What one server spent to serve the image to all clients. */
interface Served {
  what: string;
  cpuS: number;
  rssMib: number;
}

export const peerServingBenchmark: Benchmark = {
  name: 'peer-serving',
  what: `${CLIENTS} clients get one image (${IMAGE_MIB} MiB) from a device over HTTP and over libp2p, from its gateway over HTTP, from bare node:http servers and from nginx: CPU of each server; and an agent's memory with peers and without`,
  run: async () => {
    const site = await SwarmTestbed.open({ lanBytesPerS: Number.POSITIVE_INFINITY });
    try {
      return await compare(site);
    } finally {
      await site.close();
    }
  },
};

async function compare(site: SwarmTestbed): Promise<Row[]> {
  await site.publish('1.0.0', IMAGE_MIB * MIB);
  await site.startDevice('holder');
  await site.startDevice('loner', '--no-peers');
  await site.untilCompleted(await site.rollOut('1.0.0'), 2);
  await sleep(SETTLE_MS);
  const [withPeers, without] = await Promise.all([
    rssMib({ pid: site.pidOf('holder') }),
    rssMib({ pid: site.pidOf('loner') }),
  ]);
  const ids = await chunksOf(site);
  const paths = [...new Set(ids.map(id => chunkIdToHex(id)))].map(
    hex => `/chunks/${chunkPath(Buffer.from(hex, 'hex'))}`,
  );
  const rows: Served[] = [];
  const measure = async (what: string, pid: number, serve: () => Promise<unknown>): Promise<void> => {
    await serve();
    const before = await cpuS({ pid });
    await serve();
    rows.push({ what, cpuS: (await cpuS({ pid })) - before, rssMib: await rssMib({ pid }) });
  };
  const clients = await openClients(site, ids);
  try {
    await measure('device, HTTP', site.pidOf('holder'), () => fetchFromPeer(clients, ids, { isHttp: true }));
    const overStreams = clients.reduce((sum, { streamed }) => sum + streamed, 0);
    if (overStreams > 0) throw new CannotMeasure(`${overStreams} chunks came over streams instead of HTTP`);
    await measure('device, libp2p', site.pidOf('holder'), () =>
      fetchFromPeer(clients, ids, { isHttp: false }),
    );
  } finally {
    for (const client of clients) await client.close();
  }
  const gatewayData = site.testbed.path('gateway-0');
  const overHttp =
    (what: string) =>
    (url: string, { pid = 0 }: { pid?: number | undefined }) =>
      measure(what, pid, () => fetchAll(url, paths, CLIENTS));
  const chunkFolder = join(gatewayData, 'chunks');
  await withBareServer('checked', chunkFolder, overHttp('bare node:http, each read and hashed'));
  await overHttp('gateway, HTTP')(site.gateway.url, site.gateway);
  await withBareServer('memory', chunkFolder, overHttp('bare node:http, from memory'));
  await withNginx(site.testbed.directory, gatewayData, overHttp('nginx, sendfile'));
  const gibibytes = (CLIENTS * IMAGE_MIB) / 1024;
  const nginx = rows.find(({ what }) => what.startsWith('nginx'))?.cpuS ?? Number.NaN;
  return [
    ...rows.map(row => ({
      what: row.what,
      'CPU s per GiB': (row.cpuS / gibibytes).toFixed(2),
      'of nginx': ratio(row.cpuS, nginx),
      'RSS MiB': Math.round(row.rssMib),
    })),
    { what: 'agent, idle', 'CPU s per GiB': '', 'of nginx': '', 'RSS MiB': Math.round(withPeers) },
    { what: 'agent, idle, --no-peers', 'CPU s per GiB': '', 'of nginx': '', 'RSS MiB': Math.round(without) },
  ];
}

async function chunksOf(site: SwarmTestbed): Promise<ChunkId[]> {
  const releases = site.testbed.path('origin', 'repository', 'targets', 'releases');
  const [name = ''] = (await readdir(releases)).filter(file => file.endsWith('.caibx'));
  const index = ChunkIndex.decode(await readFile(`${releases}/${name}`));
  return Array.from({ length: index.count }, (_, at) => index.idAt(at));
}

/** An admitted device, with a node of its own. */
interface Client {
  readonly overHttp: Pick<ChunkStore, 'get'>;
  readonly overStream: Pick<ChunkStore, 'get'>;
  /** How many chunks came over the stream, but should have come over HTTP. */
  readonly streamed: number;
  close(): Promise<void>;
}

/** One after the other: a device opens only a few sessions with one address at a time, and here all have the same address. */
async function openClients(site: SwarmTestbed, ids: readonly ChunkId[]): Promise<Client[]> {
  const token = (await readFile(site.testbed.path('device.token'), 'utf8')).trim();
  const holder = (await site.statusOf('holder'))?.id ?? '';
  const clients: Client[] = [];
  let address: string | undefined;
  for (let at = 0; at < CLIENTS; at += 1) {
    const member = new TestMember((path, init) => fetch(site.gateway.url + path, init), Date.now);
    const { body } = await member.enrol(token, { product: 'camera', hardware: 'rpi4' });
    const node = await createSiteNode({ identity: member.identity, listen: ['/ip4/127.0.0.1/tcp/0'] });
    const notice = { peer: { id: node.id, addresses: node.addresses }, images: [] };
    const { body: named } = await member.post('/site/v1/peers', notice);
    // The first client is told only of the holder, later ones of each other, too.
    address ??= JSON.stringify(named)
      .match(/\/ip4\/[^"]+/g)
      ?.find(each => each.endsWith(holder));
    if (address === undefined) throw new CannotMeasure('the gateway names no device that holds the image');
    const client = clientOf(node, await node.dial(address), Buffer.from(JSON.stringify(body.assignment)));
    clients.push(client);
    // From now on it has a session.
    for (const id of ids.slice(0, 1)) await client.overHttp.get(id);
  }
  return clients;
}

function clientOf(node: SwarmNode, peer: string, credential: Uint8Array): Client {
  let streamed = 0;
  const overStream = new PeerStore({ node, peer, credential });
  const instead: PeerStore['get'] = (...asked) => {
    streamed += 1;
    return overStream.get(...asked);
  };
  const { name } = overStream;
  const overHttp = new HttpPeers({ node }).peer({ name, peer, get: instead }, credential);
  return {
    overHttp,
    overStream,
    get streamed() {
      return streamed;
    },
    close: async () => {
      overHttp.close();
      overStream.close();
      await node.close();
    },
  };
}

async function fetchFromPeer(
  clients: readonly Client[],
  ids: readonly ChunkId[],
  { isHttp }: { isHttp: boolean },
): Promise<void> {
  await Promise.all(
    clients.map(async ({ overHttp, overStream }) => {
      const limit = pLimit(PEER_REQUESTS);
      const asked = isHttp ? overHttp : overStream;
      await Promise.all(ids.map(id => limit(() => asked.get(id))));
    }),
  );
}

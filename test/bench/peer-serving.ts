import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestMember } from '@sitecast/origin/testing';
import { type ChunkId, ChunkIndex, chunkIdToHex, chunkPath } from '@sitecast/shared/content';
import { createSiteNode, HttpPeers, PeerStore } from '@sitecast/shared/swarm';
import pLimit from 'p-limit';
import { SwarmTestbed } from '../src/testbed/swarm-testbed.ts';
import { type Benchmark, type Row, ratio } from './benchmark.ts';
import { cpuS, fetchAll, rssMib, withNginx } from './gateway-serving.ts';

const MIB = 2 ** 20;
const IMAGE_MIB = 32;
const CLIENTS = 16;
/** As many as an update has under way with one peer, from as many peers as one serves at ease. */
const PEER_REQUESTS = 4;
const SETTLE_MS = 5000;

/** What one server spent to hand out the image to all clients. */
interface Served {
  what: string;
  cpuS: number;
  rssMib: number;
}

export const peerServingBenchmark: Benchmark = {
  name: 'peer-serving',
  what: `${CLIENTS} clients get one image (${IMAGE_MIB} MiB) from a device over HTTP and over libp2p, from its gateway over HTTP, from nginx: CPU of each server; and an agent's memory with peers and without`,
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
  await measure('device, HTTP', site.pidOf('holder'), () => fetchFromPeer(site, ids, { isHttp: true }));
  await measure('device, libp2p', site.pidOf('holder'), () => fetchFromPeer(site, ids, { isHttp: false }));
  await measure('gateway, HTTP', site.gateway.pid, () => fetchAll(site.gateway.url, paths, CLIENTS));
  await withNginx(site.testbed.directory, site.testbed.path('gateway-0'), (url, { pid = 0 }) =>
    measure('nginx, sendfile', pid, () => fetchAll(url, paths, CLIENTS)),
  );
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

/** Devices that were let in, each with a node of its own, all at one time. */
async function fetchFromPeer(
  site: SwarmTestbed,
  ids: readonly ChunkId[],
  { isHttp }: { isHttp: boolean },
): Promise<void> {
  const token = (await readFile(site.testbed.path('device.token'), 'utf8')).trim();
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      const member = new TestMember((path, init) => fetch(site.gateway.url + path, init), Date.now);
      const { body } = await member.enrol(token, { product: 'camera', hardware: 'rpi4' });
      const node = await createSiteNode({ identity: member.identity, listen: ['/ip4/127.0.0.1/tcp/0'] });
      try {
        const notice = { peer: { id: node.id, addresses: node.addresses }, images: [] };
        const { body: named } = await member.post('/site/v1/peers', notice);
        const [address = ''] = JSON.stringify(named).match(/\/ip4\/[^"]+/g) ?? [];
        const peer = await node.dial(await holderAmong(site, named, address));
        const credential = Buffer.from(JSON.stringify(body.assignment));
        const store = new PeerStore({ node, peer, credential });
        const overHttp = new HttpPeers({ node }).peer(store, credential);
        const asked = isHttp ? overHttp : store;
        const limit = pLimit(PEER_REQUESTS);
        await Promise.all(ids.map(id => limit(() => asked.get(id))));
        overHttp.close();
        store.close();
      } finally {
        await node.close();
      }
    }),
  );
}

/** The clients before this one are named, too. */
async function holderAmong(site: SwarmTestbed, named: unknown, fallback: string): Promise<string> {
  const holder = (await site.statusOf('holder'))?.id ?? '';
  const addresses = JSON.stringify(named).match(/\/ip4\/[^"]+/g) ?? [];
  return addresses.find(address => address.endsWith(holder)) ?? fallback;
}

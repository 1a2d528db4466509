// A site in one process: real nodes over TCP, and a gateway whose link is the bottleneck.
import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { type Chunk, type ChunkId, type ChunkStore, chunkIdToHex, sha256 } from '../../content/index.ts';
import { SitecastError } from '../../errors.ts';
import { ChunkServer } from '../chunks/chunk-server.ts';
import { HaveMap, ImageHoldings } from '../chunks/holdings.ts';
import { Pacer } from '../../bounded/index.ts';
import type { SwarmNode } from '../node.ts';
import { numbers, testImage } from '../testing/images.ts';
import { MemoryStore } from '../testing/memory-store.ts';
import { Nodes } from '../testing/nodes.ts';
import { PeerLinks } from './peer-links.ts';
import { SwarmStore } from './swarm-store.ts';

const CHUNKS = 256;
const CHUNK_BYTES = 32 * 1024;
const GATEWAY_BYTES_PER_S = 2 * 1024 * 1024;
const { index, chunks } = testImage(CHUNKS, CHUNK_BYTES);
const IMAGE = sha256(Buffer.from('the index'));

const nodes = new Nodes();
const stop = new AbortController();
setMaxListeners(100, stop.signal);
const devices: Device[] = [];
afterEach(async () => {
  for (const device of devices.splice(0)) await device.close();
  await nodes.close();
});

/** A gateway over a link that all devices share. It can be switched off. */
class Gateway implements ChunkStore {
  readonly name = 'gateway';
  readonly sent: string[] = [];
  isAway = false;
  readonly #store = new MemoryStore();
  readonly #link = new Pacer(GATEWAY_BYTES_PER_S);

  constructor() {
    this.#store.put(...chunks);
  }

  has(id: ChunkId): Promise<boolean> {
    return this.#store.has(id);
  }

  async get(id: ChunkId): Promise<Chunk> {
    if (this.isAway) throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'it is away');
    await this.#link.take(CHUNK_BYTES, stop.signal);
    this.sent.push(chunkIdToHex(id));
    return this.#store.get(id);
  }

  get copies(): number {
    return this.sent.length / CHUNKS;
  }
}

interface Device {
  node: SwarmNode;
  store: MemoryStore;
  links: PeerLinks;
  lies: string[];
  update: () => Promise<void>;
  close: () => Promise<void>;
}

async function device(gateway: ChunkStore, isTampering = false): Promise<Device> {
  const node = await nodes.site();
  const [store, haveMap, holdings] = [
    new MemoryStore(),
    new HaveMap(),
    new ImageHoldings(IMAGE, CHUNKS, true),
  ];
  const lies: string[] = [];
  haveMap.put(holdings);
  const wrong = {
    name: 'wrong',
    has: (id: ChunkId) => store.has(id),
    get: async () => chunks[0] ?? store.get(IMAGE),
  };
  const server = new ChunkServer({ node, store: isTampering ? wrong : store, haveMap, mayServe: () => true });
  await server.start();
  const swarm = new SwarmStore({ index, self: node.id, gateway, onBan: source => lies.push(source) });
  const links = new PeerLinks({ node, swarm, image: IMAGE, count: CHUNKS });
  const update = async () => {
    await swarm.fetch(numbers(CHUNKS), {
      concurrency: 8,
      signal: stop.signal,
      deliver: at => {
        const chunk = chunks[at];
        if (chunk) store.put(chunk);
        holdings.add(at);
      },
    });
    holdings.isFetching = false;
  };
  const close = async () => {
    await links.close();
    await server.stop();
  };
  const made = { node, store, links, lies, update, close };
  for (const other of devices) {
    links.addPeer(other.node.id, other.node.addresses);
    other.links.addPeer(node.id, node.addresses);
  }
  devices.push(made);
  return made;
}

const isWhole = async ({ store }: Device) =>
  (await Promise.all(chunks.map(({ id }) => store.has(id)))).every(isHere => isHere);

it("sends the image over the gateway's link about once, however many devices update together", async () => {
  const gateway = new Gateway();
  for (let at = 0; at < 4; at += 1) await device(gateway);
  await sleep(500);
  await Promise.all(devices.map(({ update }) => update()));
  for (const each of devices) expect(await isWhole(each)).toBe(true);
  expect(gateway.copies).toBeGreaterThanOrEqual(1);
  expect(gateway.copies).toBeLessThan(1.25);
  expect(devices.flatMap(({ lies }) => lies)).toEqual([]);
});

it('lets devices finish from each other when the gateway goes away once the site has the whole image', async () => {
  const gateway = new Gateway();
  for (let at = 0; at < 3; at += 1) await device(gateway);
  await sleep(500);
  const updates = Promise.all(devices.map(({ update }) => update()));
  while (new Set(gateway.sent).size < CHUNKS) await sleep(5);
  gateway.isAway = true;
  await updates;
  for (const each of devices) expect(await isWhole(each)).toBe(true);
});

it('updates a late device from those that have finished', async () => {
  const gateway = new Gateway();
  await (await device(gateway)).update();
  const before = gateway.sent.length;
  gateway.isAway = true;
  const late = await device(gateway);
  await late.update();
  expect(await isWhole(late)).toBe(true);
  expect(gateway.sent).toHaveLength(before);
});

it('finishes without a device that leaves, and without one that sends wrong bytes', async () => {
  const gateway = new Gateway();
  const [one, two] = [await device(gateway), await device(gateway)];
  const leaving = await device(gateway);
  const tampering = await device(gateway, true);
  await sleep(500);
  const left = leaving.update().catch(() => {
    // The device has left.
  });
  const updates = Promise.all([one.update(), two.update(), tampering.update()]);
  await sleep(700);
  await leaving.close();
  await leaving.node.close();
  await updates;
  expect(await isWhole(one)).toBe(true);
  expect(await isWhole(two)).toBe(true);
  expect([...new Set([...one.lies, ...two.lies])]).toEqual([tampering.node.id]);
  void left;
});

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  Chunk,
  type ChunkId,
  type ChunkStore,
  chunkIdOf,
  chunkIdToHex,
  chunkNotFound,
  chunkPath,
  compressFrame,
  counted,
  firstHolding,
  verifying,
  whileOpen,
} from '@sitecast/shared/content';
import { chunkOf, rawFrame, type StoreUnderTest, testChunkStore } from '@sitecast/shared/content/testing';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { DiskFrames } from './adapters/disk-frames.ts';
import { type ChunkPipeline, openChunkPipeline } from './chunk-pipeline.ts';
import { ChunkAllowlist } from './chunks/allowlist.ts';
import { DiskCache, type FrameFiles } from './chunks/disk-cache.ts';
import { FetchQueue } from './chunks/fetch-queue.ts';
import { memoryCache, MemoryStore } from './chunks/memory-store.ts';
import type { PeerGateway } from './peer-gateways/peer-gateways.ts';
import {
  countedOutOfTurn,
  heldByPeerGateways,
  ownerFirst,
  ownerOf,
} from './peer-gateways/shared-fetching.ts';
import {
  memoryLog,
  openTestDatabase,
  removeTemporaryDirectories,
  temporaryDirectory,
  until,
} from './testing/harness.ts';

afterEach(() => vi.restoreAllMocks());
afterAll(removeTemporaryDirectories);

/** A store that the test fills. It records the requested chunks. */
class FakeStore implements ChunkStore {
  readonly name: string;
  readonly asked: string[] = [];
  readonly #chunks = new Map<string, Chunk>();

  constructor(name: string, chunks: readonly Chunk[] = []) {
    this.name = name;
    this.fill(chunks);
  }

  fill(chunks: readonly Chunk[]): void {
    for (const chunk of chunks) this.#chunks.set(chunkIdToHex(chunk.id), chunk);
  }

  async has(...[id, request]: Parameters<ChunkStore['has']>): Promise<boolean> {
    request?.signal?.throwIfAborted();
    return this.#chunks.has(chunkIdToHex(id));
  }

  async get(...[id, request]: Parameters<ChunkStore['get']>): Promise<Chunk> {
    request?.signal?.throwIfAborted();
    const hex = chunkIdToHex(id);
    this.asked.push(hex);
    const found = this.#chunks.get(hex);
    if (!found) throw chunkNotFound(id, this);
    // The chunk is neither verified nor decompressed, as if it came from a socket.
    return Chunk.fromFrame(id, Uint8Array.from(found.frame()));
  }
}

const peerOf = (id: string, store: ChunkStore): PeerGateway => ({
  id,
  url: `http://${id}`,
  fetched: store,
  held: store,
  gone: new AbortController().signal,
});

interface Disk {
  disk: DiskCache;
  pathOf: (id: ChunkId) => string;
  close: () => Promise<void>;
}

interface DiskOptions {
  now?: () => number;
  /** What the files look like from the cache. */
  seen?: (files: FrameFiles) => FrameFiles;
}

async function openDisk({ now = Date.now, seen = files => files }: DiskOptions = {}): Promise<Disk> {
  const database = await openTestDatabase();
  const directory = join(await temporaryDirectory(), 'chunks');
  const disk = await DiskCache.open({
    files: seen(await DiskFrames.open(directory)),
    records: database.records('chunks'),
    isPinned: () => false,
    maxBytes: 2 ** 30,
    reserveBytes: 0,
    now,
    log: memoryLog(),
  });
  return { disk, pathOf: id => join(directory, chunkPath(id)), close: () => database.close() };
}

/** @param wrap turns a store that the suite fills into the store under test */
const wrapped = (wrap: (store: FakeStore) => ChunkStore) => async (): Promise<StoreUnderTest> => {
  const store = new FakeStore('a store');
  return { store: wrap(store), fill: async chunks => store.fill(chunks), close: async () => {} };
};

const memory = (): MemoryStore => new MemoryStore(2 ** 24);
const noPeers = { able: [], rest: () => {} };

describe('each store passes the suite of chunk stores:', () => {
  describe('memory', () => {
    testChunkStore(it, async () => {
      const store = memory();
      const fill = async (chunks: readonly Chunk[]): Promise<void> =>
        chunks.forEach(chunk => store.put(chunk));
      return { store, fill, close: async () => {} };
    });
  });
  describe('disk', () => {
    testChunkStore(it, async () => {
      const { disk, close } = await openDisk();
      const fill = async (chunks: readonly Chunk[]): Promise<void> => {
        for (const chunk of chunks) await disk.put(chunk);
      };
      return { store: disk, fill, close };
    });
  });
  const wrappers: [string, (store: FakeStore) => ChunkStore][] = [
    ['a memory cache', store => memoryCache(memory(), store)],
    [
      'turns',
      store =>
        new FetchQueue({ source: store, memory: memory(), disk: { put: async () => true }, atOnce: 2 }),
    ],
    ['the first that holds it', store => firstHolding([new FakeStore('another'), store])],
    ['counted', store => counted(store, () => {})],
    ['while it is open', store => whileOpen(store, () => {})],
    ['held by peer gateways', store => heldByPeerGateways({ able: [peerOf('a', store)] })],
    [
      'its owner first',
      store => ownerFirst({ ownId: 'a', peerGateways: noPeers, own: store, onGiven: () => {} }),
    ],
    [
      'counted out of turn',
      store => countedOutOfTurn(store, { ownId: 'a', ids: () => ['a'], onOutOfTurn: () => {} }),
    ],
  ];
  describe.each(wrappers)('%s', (_name, wrap) => {
    testChunkStore(it, wrapped(wrap));
  });
});

const chunks = Array.from({ length: 8 }, (_, at) => chunkOf(`chunk ${at}`));

interface Site extends Disk {
  pipeline: ChunkPipeline;
  wan: FakeStore;
  devices: FakeStore;
  peer: FakeStore;
}

/** A gateway at a site with one peer gateway. The test sets the chunks of each source. */
async function openSite(
  holds: { wan?: Chunk[]; devices?: Chunk[]; peer?: Chunk[] },
  { memoryBytes = 2 ** 24, ...options }: DiskOptions & { memoryBytes?: number } = {},
): Promise<Site> {
  const opened = await openDisk(options);
  const { disk } = opened;
  const allowlist = new ChunkAllowlist({ local: async () => undefined, log: memoryLog() });
  vi.spyOn(allowlist, 'has').mockReturnValue(true);
  const [wan, devices, peer] = [
    new FakeStore('the origin', holds.wan),
    new FakeStore('devices', holds.devices),
    new FakeStore('a peer gateway', holds.peer),
  ];
  // The real adapters verify chunks.
  const able = [peerOf('peer', verifying(peer))];
  const pipeline = openChunkPipeline({
    ownId: 'own',
    memoryBytes,
    disk,
    allowlist,
    peerGateways: { able, knownIds: ['peer'], rest: id => able.splice(0, id === 'peer' ? 1 : 0) },
    deviceChunks: verifying(devices),
    upstreams: [{ url: wan.name, isOrigin: true, chunks: wan }],
    neighbours: undefined,
    isCutOff: () => false,
    wanLimits: { demandOpen: () => {}, fetchesAtOnce: most => most },
    onRefused: () => {},
    onReceived: () => {},
  });
  return { ...opened, pipeline, wan, devices, peer };
}

describe('the whole pipeline passes the suite of chunk stores:', () => {
  testChunkStore(it, async () => {
    const { pipeline, wan, close } = await openSite({});
    return { store: pipeline.forDevices, fill: async more => wan.fill(more), close };
  });
});

it.each(['wan', 'devices', 'peer'] as const)(
  'verifies a chunk once on its way from %s, however often it is requested',
  async source => {
    const { pipeline, close } = await openSite({ [source]: chunks });
    const verified = vi.spyOn(Chunk.prototype, 'verify');
    const given: Chunk[] = [];
    for (const { id } of chunks) {
      given.push(...(await Promise.all([1, 2].map(() => pipeline.forDevices.get(id)))));
      given.push(await pipeline.forDevices.get(id));
    }
    expect(verified).toHaveBeenCalledTimes(chunks.length);
    vi.restoreAllMocks();
    for (const chunk of given) chunk.verify();
    await close();
  },
);

it.each(['wan', 'devices', 'peer'] as const)(
  'keeps a chunk compressed that came uncompressed from %s, and gives it so',
  async source => {
    const plain = Buffer.from('as it lies in a slot '.repeat(3000));
    const raw = Chunk.fromFrame(chunkIdOf(plain), Buffer.concat(rawFrame(plain)));
    const { pipeline, disk, close } = await openSite({ [source]: [raw] });
    const shortBytes = compressFrame(plain).length;
    expect((await pipeline.forDevices.get(raw.id)).frame()).toHaveLength(shortBytes);
    await vi.waitUntil(() => disk.count === 1);
    expect((await disk.get(raw.id)).frame()).toHaveLength(shortBytes);
    expect((await pipeline.here.get(raw.id)).frame()).toHaveLength(shortBytes);
    await close();
  },
);

it('asks the owner of a chunk, then what the site has, and the WAN last', async () => {
  const isPeers = ({ id }: Chunk): boolean => ownerOf(chunkIdToHex(id), ['own', 'peer']) === 'peer';
  const [theirs, own] = [chunks.filter(isPeers), chunks.filter(chunk => !isPeers(chunk))];
  const [held, rest] = [own.slice(0, 1), own.slice(1)];
  expect([theirs.length, rest.length]).not.toContain(0);
  const { pipeline, wan, devices, peer, close } = await openSite({
    wan: chunks,
    devices: held,
    peer: theirs,
  });
  for (const { id } of chunks) await pipeline.forDevices.get(id);
  const hexes = (list: Chunk[]): string[] => list.map(({ id }) => chunkIdToHex(id)).sort();
  expect(wan.asked.sort()).toEqual(hexes(rest));
  expect(devices.asked.sort()).toEqual(hexes(own));
  expect(peer.asked.sort()).toEqual(hexes(chunks));
  expect(pipeline.counts()).toMatchObject({
    peerFetched: theirs.length,
    siteDevices: held.length,
    wanFetches: rest.length,
    takeovers: 0,
  });
  await close();
});

it('serves a peer gateway from its own stores and the origin, and asks no peer gateway for it', async () => {
  const { pipeline, wan, peer, close } = await openSite({ wan: chunks });
  for (const { id } of chunks) await pipeline.forGateways?.get(id);
  expect(wan.asked).toHaveLength(chunks.length);
  // Each was asked once for what it has.
  expect(peer.asked).toHaveLength(chunks.length);
  expect(pipeline.counts()).toMatchObject({ peerFetched: 0, wanFetches: chunks.length });
  for (const { id } of chunks) await pipeline.here.get(id);
  expect(wan.asked).toHaveLength(chunks.length);
  await close();
});

/** As a disk that spoils bytes below the file system: no file ever looks changed. */
const alike = (files: FrameFiles): FrameFiles => {
  const stamp = 'as ever';
  return {
    read: async id => {
      const found = await files.read(id);
      return found && { ...found, stamp };
    },
    readNow: id => {
      const found = files.readNow(id);
      return found && { ...found, stamp };
    },
    write: async (id, frame) => (await files.write(id, frame)) && stamp,
    remove: id => files.remove(id),
    list: () => files.list(),
    freeBytes: () => files.freeBytes(),
  };
};

it('sends what rots on the disk without a trace for a minute at most, and never keeps it in memory', async () => {
  let nowMs = Date.UTC(2026, 0, 1);
  const [chunk, other] = [chunkOf('a chunk'), chunkOf('another')];
  // Room for one of the two in memory.
  const few = { memoryBytes: 300, now: () => nowMs, seen: alike };
  const { pipeline, disk, wan, pathOf, close } = await openSite({ wan: [chunk, other] }, few);
  const { id } = chunk;
  const hex = chunkIdToHex(id);
  const right = Buffer.from(chunk.frame());
  const sent = async (): Promise<Buffer> =>
    pipeline.atOnce(id, hex) ?? Buffer.from((await pipeline.forDevices.get(id)).frame());
  for (const each of [chunk, other]) await pipeline.forDevices.get(each.id);
  await until(() => disk.count === 2, 'both to be on the disk');
  const rotten = await readFile(pathOf(id));
  rotten[rotten.length - 1] = (rotten.at(-1) ?? 0) ^ 1;
  await writeFile(pathOf(id), rotten);
  await sent();
  nowMs += 60_000;
  expect(await sent()).toEqual(right);
  expect(disk.damaged).toBe(1);
  expect(wan.asked.filter(asked => asked === hex)).toHaveLength(2);
  await close();
});

it('keeps in memory what it reads from the disk, once it is verified', async () => {
  let nowMs = Date.UTC(2026, 0, 1);
  const [chunk, other] = [chunkOf('a chunk'), chunkOf('another')];
  const few = { memoryBytes: 300, now: () => nowMs };
  const { pipeline, disk, close } = await openSite({ wan: [chunk, other] }, few);
  for (const each of [chunk, other]) await pipeline.forDevices.get(each.id);
  await until(() => disk.count === 2, 'both to be on the disk');
  nowMs += 60_000;
  expect(pipeline.atOnce(chunk.id, chunkIdToHex(chunk.id))).toBeUndefined();
  await pipeline.forDevices.get(chunk.id);
  pipeline.atOnce(chunk.id, chunkIdToHex(chunk.id));
  expect(pipeline.counts()).toMatchObject({ diskHits: 1, memoryHits: 1, wanFetches: 2 });
  await close();
});

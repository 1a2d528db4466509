import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { Chunk, type ChunkId, type ChunkRequest, sameChunkId, sha256 } from '../../content/index.ts';
import { chunkNotFound } from '../../content/store/chunk-store.ts';
import { SitecastError } from '../../errors.ts';
import { ChunkServer } from '../chunks/chunk-server.ts';
import { HaveMap, ImageHoldings } from '../chunks/holdings.ts';
import { numbers, testImage } from '../testing/images.ts';
import { MemoryStore } from '../testing/memory-store.ts';
import { Nodes, until } from '../testing/nodes.ts';
import { HolderStore } from './holder-store.ts';
import { PeerLinks } from './peer-links.ts';
import type { SwarmPeer } from './swarm-store.ts';

const COUNT = 12;
const { index, chunks } = testImage(COUNT, 16_384);
const ALL = numbers(COUNT);
const idOf = (at: number): ChunkId => index.idAt(at);

type Answer = (chunk: Chunk, request: ChunkRequest) => Promise<Chunk> | Chunk;

class Scripted implements SwarmPeer {
  readonly name: string;
  readonly peer: string;
  asked = 0;
  readonly #answer: Answer;

  constructor(name: string, answer: Answer = chunk => chunk) {
    this.name = name;
    this.peer = name;
    this.#answer = answer;
  }

  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    this.asked += 1;
    const chunk = chunks.find(one => sameChunkId(one.id, id));
    if (!chunk) throw chunkNotFound(id, { name: this.name });
    return this.#answer(chunk, request);
  }
}

const unreachable = () => new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'gone');
const lie: Answer = ({ id }) => Chunk.fromPlain(id, Buffer.from('wrong')).verify();
const hang: Answer = (_, { signal }) =>
  sleep(60_000, undefined, signal && { signal }).then(() => {
    throw unreachable();
  });

const FAR_TOO_LONG_MS = 600_000;

/** All of these peers announce that they have everything. */
function storeOf(...peers: Scripted[]) {
  const bans: string[] = [];
  const store = new HolderStore({
    index,
    maxPeers: 3,
    deadlineMs: 200,
    onBan: (peer, { code }) => bans.push(`${peer} ${code}`),
  });
  for (const peer of peers) {
    expect(store.addPeer(peer)).toBe(true);
    store.onHave(peer.peer, ALL);
  }
  return { store, bans };
}

const nodes = new Nodes();
afterEach(() => nodes.close());

it('asks no peer for a chunk that no peer has announced', async () => {
  const peer = new Scripted('peer');
  const { store } = storeOf();
  store.addPeer(peer);
  expect(store.announced).toBe(0);
  store.onHave('peer', [3]);
  expect([store.announced, store.linked]).toEqual([1, 1]);
  expect(await Promise.all([3, 4].map(at => store.has(idOf(at))))).toEqual([true, false]);
  await expect(store.get(idOf(4))).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
  await expect(store.get(Buffer.alloc(32))).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
  expect([store.isOfImage(idOf(4)), store.isOfImage(Buffer.alloc(32))]).toEqual([true, false]);
  expect(peer.asked).toBe(0);
  store.removePeer('peer');
  expect(await store.has(idOf(3))).toBe(false);
});

it('spreads concurrent requests over the peers that have the chunks', async () => {
  const slow: Answer = async chunk => {
    await sleep(20);
    return chunk;
  };
  const peers = [new Scripted('one', slow), new Scripted('two', slow), new Scripted('three', slow)];
  const { store } = storeOf(...peers);
  const got = await Promise.all(ALL.map(at => store.get(idOf(at))));
  expect(got.map(({ id }) => Buffer.from(id))).toEqual(ALL.map(at => Buffer.from(idOf(at))));
  expect(peers.map(({ asked }) => asked)).toEqual([4, 4, 4]);
});

it('keeps at most its bound of peers', () => {
  const { store } = storeOf(new Scripted('one'), new Scripted('two'), new Scripted('three'));
  expect(store.addPeer(new Scripted('four'))).toBe(false);
  store.removePeer('one');
  expect(store.addPeer(new Scripted('four'))).toBe(true);
});

it('drops a misbehaving peer for good, and reports it once', async () => {
  const [liar, good] = [new Scripted('a liar', lie), new Scripted('good')];
  const { store, bans } = storeOf(liar, good);
  for (const at of ALL) await store.get(idOf(at));
  expect([liar.asked, bans, store.linked]).toEqual([1, ['a liar SITECAST_CHUNK_MISMATCH'], 1]);
  expect(store.addPeer(liar)).toBe(false);
});

it('asks another peer when one lacks the chunk, hangs or fails, and at most two', async () => {
  const boasts: Answer = ({ id }) => {
    throw chunkNotFound(id, { name: 'a boaster' });
  };
  const fails: Answer = () => {
    throw unreachable();
  };
  for (const bad of [boasts, hang, fails]) {
    const good = new Scripted('good');
    const { store, bans } = storeOf(new Scripted('bad', bad), good);
    expect((await store.get(idOf(0))).id).toEqual(idOf(0));
    expect([good.asked, bans]).toEqual([1, []]);
    const third = new Scripted('third');
    const { store: worse } = storeOf(new Scripted('bad', bad), new Scripted('bad too', bad), third);
    await expect(worse.get(idOf(0))).rejects.toBeInstanceOf(SitecastError);
    expect(third.asked).toBe(0);
  }
});

it('drops a peer that fails three times in a row, and prefers others before that', async () => {
  let nowMs = 0;
  const dead = new Scripted('dead', () => {
    throw unreachable();
  });
  const store = new HolderStore({ index, maxPeers: 1, deadlineMs: FAR_TOO_LONG_MS, now: () => nowMs });
  store.addPeer(dead);
  store.onHave('dead', ALL);
  for (let round = 1; round <= 3; round += 1) {
    await expect(store.get(idOf(0))).rejects.toMatchObject({ code: 'SITECAST_STORE_UNREACHABLE' });
    await expect(store.get(idOf(0))).rejects.toMatchObject({ code: 'SITECAST_CHUNK_NOT_FOUND' });
    expect(dead.asked).toBe(round);
    nowMs += 60_000;
  }
  expect(store.linked).toBe(0);
  expect(store.addPeer(dead)).toBe(false);
});

it('ends with the reason of the caller’s signal', async () => {
  const { store } = storeOf(new Scripted('hangs', hang), new Scripted('hangs too', hang));
  const stop = new AbortController();
  const getting = store.get(idOf(0), { signal: stop.signal });
  stop.abort(new Error('enough'));
  await expect(getting).rejects.toThrow('enough');
});

it('follows what real peers have as that grows, and fetches it from them', async () => {
  const [self, other] = [await nodes.site(), await nodes.site()];
  const image = sha256(index.encode());
  const haveMap = new HaveMap();
  const holdings = new ImageHoldings(image, COUNT, true);
  for (const at of ALL.slice(0, 6)) holdings.add(at);
  haveMap.put(holdings);
  const held = new MemoryStore();
  held.put(...chunks);
  await new ChunkServer({ node: other, store: held, haveMap, mayServe: () => true }).start();
  const store = new HolderStore({ index, maxPeers: 1, deadlineMs: FAR_TOO_LONG_MS });
  const links = new PeerLinks({ node: self, swarm: store, image, count: COUNT });
  links.addPeer(other.id, other.addresses);
  await until(() => store.announced === 1, 'it has told');
  expect(await Promise.all(ALL.map(at => store.has(idOf(at))))).toEqual(ALL.map(at => at < 6));
  holdings.add(9);
  const first = Date.now();
  while (!(await store.has(idOf(9))) && Date.now() - first < 10_000) await sleep(10);
  expect(Buffer.from((await store.get(idOf(9))).plain())).toEqual(Buffer.from(chunks[9]?.plain() ?? []));
  await links.close();
  expect([store.linked, store.announced]).toEqual([0, 1]);
});

import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import {
  Chunk,
  type ChunkId,
  type ChunkRequest,
  type ChunkStore,
  chunkIdToHex,
} from '../../content/index.ts';
import { chunkNotFound } from '../../content/store/chunk-store.ts';
import { SitecastError } from '../../errors.ts';
import { numbers, testImage } from '../testing/images.ts';
import { MemoryStore } from '../testing/memory-store.ts';
import { MAX_GATEWAY_SLOTS, MAX_PEER_SLOTS } from './slots.ts';
import { type SwarmPeer, SwarmStore } from './swarm-store.ts';

const { index, chunks } = testImage(60, 16_384);
const ALL = numbers(60);

type Answer = (chunk: Chunk, request: ChunkRequest) => Promise<Chunk> | Chunk;

/** A peer or gateway whose behaviour a test sets. */
class Scripted implements ChunkStore, SwarmPeer {
  readonly name: string;
  readonly peer: string;
  readonly asked: string[] = [];
  underWay = 0;
  most = 0;
  readonly #answer: Answer;
  readonly #store = new MemoryStore();

  constructor(name: string, answer: Answer = chunk => chunk) {
    this.name = name;
    this.peer = name;
    this.#answer = answer;
    this.#store.put(...chunks);
  }

  async has(): Promise<boolean> {
    return true;
  }

  async get(id: ChunkId, request: ChunkRequest = {}): Promise<Chunk> {
    this.asked.push(chunkIdToHex(id));
    this.underWay += 1;
    this.most = Math.max(this.most, this.underWay);
    try {
      return await this.#answer(await this.#store.get(id), request);
    } finally {
      this.underWay -= 1;
    }
  }
}

const unreachable = () => new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'gone');

async function hang(_chunk: Chunk, { signal }: ChunkRequest): Promise<Chunk> {
  await sleep(60_000, undefined, signal && { signal });
  throw unreachable();
}

function swarmOf(gateway: ChunkStore | undefined, ...peers: SwarmPeer[]) {
  const bans: string[] = [];
  const swarm = new SwarmStore({
    index,
    self: 'me',
    gateway,
    onBan: (source, { code }) => bans.push(`${source} ${code}`),
  });
  for (const peer of peers) {
    swarm.addPeer(peer);
    swarm.onHave(peer.peer, ALL, false);
  }
  const got = new Map<number, Uint8Array>();
  const fetch = (options: { stallMs?: number; refusedMs?: number; signal?: AbortSignal } = {}) =>
    swarm.fetch(ALL, {
      concurrency: 12,
      signal: new AbortController().signal,
      deliver: (at, plain) => {
        got.set(at, plain);
      },
      ...options,
    });
  const isWhole = () =>
    ALL.every(
      at => Buffer.compare(got.get(at) ?? Buffer.alloc(0), chunks[at]?.plain() ?? Buffer.alloc(0)) === 0,
    );
  return { swarm, bans, got, fetch, isWhole };
}

describe('a swarm', () => {
  it('takes each chunk from the gateway once where there are no peers, a few at a time', async () => {
    const gateway = new Scripted('gateway', async chunk => {
      await sleep(2);
      return chunk;
    });
    const { fetch, isWhole } = swarmOf(gateway);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(gateway.asked).toHaveLength(60);
    expect(gateway.most).toBe(MAX_GATEWAY_SLOTS);
  });

  it('takes what peers have from them, spread over all, and nothing from the gateway', async () => {
    const slowly: Answer = async chunk => {
      await sleep(5);
      return chunk;
    };
    const [gateway, one, two] = [
      new Scripted('gateway'),
      new Scripted('one', slowly),
      new Scripted('two', slowly),
    ];
    const { fetch, isWhole } = swarmOf(gateway, one, two);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(gateway.asked).toEqual([]);
    expect(one.asked.length + two.asked.length).toBe(60);
    expect(Math.min(one.asked.length, two.asked.length)).toBeGreaterThan(15);
    expect(Math.max(one.most, two.most)).toBe(MAX_PEER_SLOTS);
  });

  it('bans a peer that sends wrong bytes, reports it once, and takes the chunk from another source', async () => {
    const gateway = new Scripted('gateway');
    const liar = new Scripted('liar', chunk => Chunk.fromPlain(chunk.id, Buffer.from('wrong')).verify());
    const { fetch, isWhole, bans, swarm } = swarmOf(gateway, liar);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(bans).toEqual(['liar SITECAST_CHUNK_MISMATCH']);
    expect(liar.asked.length).toBeLessThanOrEqual(MAX_PEER_SLOTS);
    expect(swarm.addPeer(liar)).toBe(false);
  });

  it.each([
    ['lacks', (id: ChunkId) => chunkNotFound(id, { name: 'gateway' })],
    [
      "can't have now",
      () =>
        new SitecastError('unreachable', 'SITECAST_NO_SOURCE', 'all are busy', { data: { isRefused: true } }),
    ],
  ])(
    'gives up soon, where that was asked for, on a chunk that the gateway %s and no peer holds',
    async (_, refuse) => {
      const gateway = new Scripted('gateway', chunk => {
        if (chunkIdToHex(chunk.id) === chunkIdToHex(index.idAt(7))) throw refuse(chunk.id);
        return chunk;
      });
      const { fetch, bans } = swarmOf(gateway);
      await expect(fetch({ refusedMs: 300 })).rejects.toMatchObject({ code: refuse(index.idAt(7)).code });
      expect(bans).toEqual([]);
      // Asked again meanwhile, and seldom.
      const asked = gateway.asked.filter(hex => hex === chunkIdToHex(index.idAt(7))).length;
      expect(asked).toBeLessThanOrEqual(3);
    },
  );

  it('does not give up on a chunk that the gateway lacks and a peer holds', async () => {
    const gateway = new Scripted('gateway', chunk => {
      throw chunkNotFound(chunk.id, { name: 'gateway' });
    });
    const peer = new Scripted('peer', async chunk => {
      await sleep(100);
      return chunk;
    });
    const { fetch, isWhole } = swarmOf(gateway, peer);
    await fetch({ refusedMs: 50 });
    expect(isWhole()).toBe(true);
  });

  it('bans a gateway that sends wrong bytes', async () => {
    const gateway = new Scripted('gateway', chunk => Chunk.fromPlain(chunk.id, Buffer.from('wrong')));
    const { fetch, bans, got } = swarmOf(gateway);
    await expect(fetch({ stallMs: 300 })).rejects.toMatchObject({ code: 'SITECAST_STORE_UNREACHABLE' });
    expect(bans).toEqual(['gateway SITECAST_CHUNK_MISMATCH']);
    expect(got.size).toBe(0);
  });

  it('no longer asks a peer for a chunk that it lacks after all, which is no misbehaviour', async () => {
    const gateway = new Scripted('gateway');
    const boaster = new Scripted('boaster', chunk => {
      if (Buffer.compare(chunk.id, chunks[30]?.id ?? Buffer.alloc(0)) < 0)
        throw chunkNotFound(chunk.id, gateway);
      return chunk;
    });
    const { fetch, isWhole, bans } = swarmOf(gateway, boaster);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(bans).toEqual([]);
    expect(boaster.asked.length + gateway.asked.length).toBeGreaterThan(60);
    expect(gateway.asked.length).toBeLessThan(60);
  });

  it('asks a second source when the first hangs, and aborts the first request', async () => {
    const [hanging, good] = [new Scripted('hanging', hang), new Scripted('good')];
    const { fetch, isWhole } = swarmOf(undefined, hanging, good);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(hanging.asked.length).toBeLessThanOrEqual(2 * MAX_PEER_SLOTS);
    await sleep(10);
    expect(hanging.underWay).toBe(0);
  });

  it('asks a third source when the second, asked because the first hangs, lacks the chunk', async () => {
    const [gateway, hanging] = [new Scripted('gateway'), new Scripted('hanging', hang)];
    const boaster: Scripted = new Scripted('boaster', chunk => {
      throw chunkNotFound(chunk.id, boaster);
    });
    const { fetch, isWhole } = swarmOf(gateway, hanging, boaster);
    await fetch();
    expect(isWhole()).toBe(true);
    await sleep(10);
    expect(hanging.underWay).toBe(0);
  });

  it('finishes from the gateway when its only peer hangs', async () => {
    const [gateway, hanging] = [new Scripted('gateway'), new Scripted('hanging', hang)];
    const { fetch, isWhole } = swarmOf(gateway, hanging);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(hanging.asked.length).toBeLessThanOrEqual(2 * MAX_PEER_SLOTS);
  });

  it('uses the gateway when its only peer is just fast enough not to be given up', async () => {
    const gateway = new Scripted('gateway');
    const crawling = new Scripted('crawling', async chunk => {
      await sleep(600);
      return chunk;
    });
    const { fetch, isWhole } = swarmOf(gateway, crawling);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(gateway.asked.length).toBeGreaterThan(30);
  });

  it('finishes from its peers when the gateway is gone', async () => {
    const gateway = new Scripted('gateway', () => {
      throw unreachable();
    });
    const { fetch, isWhole, swarm } = swarmOf(gateway);
    const running = fetch();
    await sleep(200);
    const peer = new Scripted('peer');
    swarm.addPeer(peer);
    swarm.onHave('peer', ALL, false);
    await running;
    expect(isWhole()).toBe(true);
  });

  it('drops a peer that leaves in the middle', async () => {
    const gateway = new Scripted('gateway');
    const leaving = new Scripted('leaving', chunk => {
      if (leaving.asked.length > 10) throw unreachable();
      return chunk;
    });
    const { fetch, isWhole, swarm } = swarmOf(gateway, leaving);
    await fetch();
    expect(isWhole()).toBe(true);
    expect(swarm.peers).toEqual([]);
  });

  it('fails with the reason when nothing arrives, and at once when it is aborted', async () => {
    const { fetch } = swarmOf(undefined);
    await expect(fetch({ stallMs: 300 })).rejects.toMatchObject({
      code: 'SITECAST_STORE_UNREACHABLE',
      data: { missing: 60 },
    });
    const stop = new AbortController();
    const gateway = new Scripted('gateway', hang);
    const { fetch: another } = swarmOf(gateway);
    const running = another({ signal: stop.signal });
    stop.abort(new Error('enough'));
    await expect(running).rejects.toThrow('enough');
    await sleep(10);
    expect(gateway.underWay).toBe(0);
  });

  it('ends with the error of the consumer, after the running deliveries', async () => {
    const { swarm } = swarmOf(new Scripted('gateway'));
    let delivering = 0;
    const deliver = async (at: number) => {
      delivering += 1;
      await sleep(at === 7 ? 1 : 30);
      delivering -= 1;
      if (at === 7) throw new Error('the disk is full');
    };
    const options = { concurrency: 4, signal: new AbortController().signal, deliver };
    await expect(swarm.fetch(ALL, options)).rejects.toThrow('the disk is full');
    expect(delivering).toBe(0);
  });

  it('has at most its bound of chunks in memory', async () => {
    let delivering = 0;
    let most = 0;
    const { swarm } = swarmOf(new Scripted('gateway'), new Scripted('one'), new Scripted('two'));
    await swarm.fetch(ALL, {
      concurrency: 3,
      signal: new AbortController().signal,
      deliver: async () => {
        most = Math.max(most, (delivering += 1));
        await sleep(3);
        delivering -= 1;
      },
    });
    expect(most).toBeLessThanOrEqual(3);
  });

  it('returns a single chunk out of turn, as a store does', async () => {
    const [gateway, liar] = [
      new Scripted('gateway'),
      new Scripted('liar', chunk => Chunk.fromPlain(chunk.id, Buffer.from('wrong')).verify()),
    ];
    const { swarm, bans } = swarmOf(gateway, liar);
    const { id } = chunks[5] ?? chunks[0] ?? Chunk.fromPlain(Buffer.alloc(32), Buffer.alloc(1));
    expect(await swarm.has(id)).toBe(true);
    expect(Buffer.compare((await swarm.get(id)).plain(), chunks[5]?.plain() ?? Buffer.alloc(0))).toBe(0);
    expect(bans).toHaveLength(1);
  });
});

import crypto, { randomBytes } from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { setTimeout as delay } from 'node:timers/promises';
import {
  Chunk,
  type ChunkId,
  ChunkIndexBuilder,
  chunkIdOf,
  chunkIdToHex,
  type ChunkStore,
  compressFrame,
} from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { SwarmStore } from '@sitecast/shared/swarm';
import { expect, it } from 'vitest';
import { GatewayChunks } from './gateway-chunks.ts';

const plain = randomBytes(10_000);
const id = chunkIdOf(plain);

type Answer = (id: ChunkId, signal: AbortSignal) => Promise<Chunk>;

/** A store that counts its requests and how many of them were aborted. */
function store(name: string, answer: Answer) {
  const asked = { times: 0, abandoned: 0 };
  const made: ChunkStore = {
    name,
    has: async () => true,
    get: async (wanted, { signal = new AbortController().signal } = {}) => {
      asked.times += 1;
      signal.addEventListener('abort', () => (asked.abandoned += 1));
      return answer(wanted, signal);
    },
  };
  return Object.assign(made, { asked });
}

const good: Answer = async wanted => Chunk.fromPlain(wanted, plain);
const wrong: Answer = async wanted => Chunk.fromPlain(wanted, randomBytes(10_000));
const gone = async (): Promise<never> => {
  throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'gone');
};
const silent: Answer = (_, signal) =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

function open(...stores: ChunkStore[]) {
  const bans: { gateway: string; code: string }[] = [];
  const gateways = new GatewayChunks(stores, {
    // Two seconds take two milliseconds. An aborted sleep ends like any other.
    sleep: (ms, signal) => delay(ms / 1000, undefined, { signal }).catch(() => undefined),
    onBan: (gateway, code) => bans.push({ gateway, code }),
  });
  const into = Buffer.alloc(20_000);
  const { signal } = new AbortController();
  const fetch = async () => (await gateways.get(id, { lengthBytes: plain.length, into, signal })).plain();
  return { bans, into, gateways, fetch };
}

it('asks the next source when one is slow, and asks that one last from then on', async () => {
  const [slow, fast] = [store('slow', silent), store('fast', good)];
  const { fetch, bans } = open(slow, fast);
  expect(Buffer.from(await fetch()).equals(plain)).toBe(true);
  expect(slow.asked).toEqual({ times: 1, abandoned: 1 });
  for (let chunk = 0; chunk < 20; chunk += 1) await fetch();
  expect(slow.asked.times).toBe(1);
  expect(fast.asked.times).toBe(21);
  expect(bans).toEqual([]);
});

it('skips a source that fails, without waiting, and bans one that sends wrong bytes', async () => {
  const [away, liar, honest] = [store('away', gone), store('liar', wrong), store('honest', good)];
  const { fetch, bans } = open(away, liar, honest);
  for (let chunk = 0; chunk < 5; chunk += 1) expect(Buffer.from(await fetch()).equals(plain)).toBe(true);
  expect(bans).toEqual([{ gateway: 'liar', code: 'SITECAST_CHUNK_MISMATCH' }]);
  expect([away.asked.times, liar.asked.times]).toEqual([1, 1]);
});

it('waits for its only source, however slow', async () => {
  const only = store('only', async wanted => {
    await delay(50);
    return Chunk.fromPlain(wanted, plain);
  });
  expect(Buffer.from(await open(only).fetch()).equals(plain)).toBe(true);
  expect(only.asked.times).toBe(1);
});

it('lists the error of each source when none has the chunk', async () => {
  await expect(open(store('a', gone), store('b', gone)).fetch()).rejects.toMatchObject({
    code: 'SITECAST_NO_SOURCE',
    kind: 'unreachable',
  });
});

it('gives up where every gateway has sent wrong bytes, and asks none of them again', async () => {
  const [one, other] = [store('one', wrong), store('other', wrong)];
  const { fetch, bans } = open(one, other);
  for (let times = 0; times < 2; times += 1)
    await expect(fetch()).rejects.toMatchObject({ code: 'SITECAST_SOURCES_BANNED', kind: 'unreachable' });
  expect(bans.map(({ gateway }) => gateway)).toEqual(['one', 'other']);
  expect([one.asked.times, other.asked.times]).toEqual([1, 1]);
});

/** Gateways whose pauses end when the test says so, and more chunks that one gives after so many refusals. */
function openRefusing(refusals: number) {
  const plains = new Map(
    Array.from({ length: 8 }, () => randomBytes(1000)).map(bytes => [chunkIdToHex(chunkIdOf(bytes)), bytes]),
  );
  const asked = new Map<string, number>();
  const gateway = store('refusing', async wanted => {
    const key = chunkIdToHex(wanted);
    const times = (asked.get(key) ?? 0) + 1;
    asked.set(key, times);
    const bytes = plains.get(key);
    if (times <= refusals || bytes === undefined) return gone();
    return Chunk.fromPlain(wanted, bytes);
  });
  const pauses: (() => void)[] = [];
  const sleep = (): Promise<void> => new Promise(resolve => pauses.push(resolve));
  const gateways = new GatewayChunks([gateway], { sleep, onBan: () => {} });
  const get = (key: string, signal?: AbortSignal): Promise<Chunk> =>
    gateways.get(Buffer.from(key, 'hex'), { lengthBytes: 1000, ...(signal && { signal }) });
  /** Ends the pauses that are under way. @returns how many those were */
  const endPauses = async (): Promise<number> => {
    await delay(5);
    const ended = pauses.splice(0);
    for (const end of ended) end();
    await delay(5);
    return ended.length;
  };
  return { keys: [...plains.keys()], get, endPauses };
}

it('asks again for all refused chunks together as soon as one of them has come', async () => {
  const { keys, get, endPauses } = openRefusing(2);
  const all = Promise.all(keys.map(key => get(key)));
  expect([await endPauses(), await endPauses()]).toEqual([1, 1]);
  expect([await endPauses(), await endPauses()]).toEqual([7, 7]);
  expect(await all).toHaveLength(8);
});

it('asks again for one refused chunk at a time while none comes', async () => {
  const { keys, get, endPauses } = openRefusing(Infinity);
  const all = Promise.allSettled(keys.slice(0, 3).map(key => get(key)));
  for (let pause = 0; pause < 9; pause += 1) expect(await endPauses()).toBe(1);
  expect((await all).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
});

it('gives up at once a chunk that waits to be requested again, when its signal comes', async () => {
  const { keys, get, endPauses } = openRefusing(1);
  const [first = '', second = '', third = ''] = keys;
  const stop = new AbortController();
  const before = get(first);
  const stopped = get(second, stop.signal);
  const behind = get(third);
  const reason = new Error('no longer needed');
  await delay(5);
  stop.abort(reason);
  // The pause of the one before goes on.
  await expect(stopped).rejects.toBe(reason);
  await endPauses();
  await before;
  await endPauses();
  await behind;
});

it('writes the plain bytes into the memory of the caller', async () => {
  const framed: Answer = async wanted => Chunk.fromFrame(wanted, compressFrame(plain));
  const { fetch, into } = open(store('framed', framed));
  const found = await fetch();
  expect(Buffer.from(found).equals(plain)).toBe(true);
  expect(found.buffer).toBe(into.buffer);
});

it('hashes a chunk once on its way from a gateway through the swarm to its slot', async () => {
  const count = 8;
  const plains = Array.from({ length: count }, () => randomBytes(5000));
  const builder = new ChunkIndexBuilder({ minBytes: 1, avgBytes: 5000, maxBytes: 5000 });
  for (const [at, one] of plains.entries()) builder.add(chunkIdOf(one), (at + 1) * 5000);
  const index = builder.finish();
  const framed: Answer = async wanted =>
    Chunk.fromFrame(wanted, compressFrame(plains[index.find(wanted) ?? 0] ?? plain));
  const { gateways } = open(store('framed', framed));
  const swarm = new SwarmStore({ index, self: 'me', gateway: gateways });
  const seen: number[] = [];
  const hashes = await countingHashes(() =>
    swarm.fetch(
      Array.from({ length: count }, (_, at) => at),
      {
        concurrency: 4,
        signal: new AbortController().signal,
        deliver: async at => void seen.push(at),
      },
    ),
  );
  expect({ hashes, seen: seen.sort((one, other) => one - other) }).toEqual({
    hashes: count,
    seen: [0, 1, 2, 3, 4, 5, 6, 7],
  });
});

/** @returns how often `crypto.hash` was called meanwhile. Every verification of a chunk calls it */
async function countingHashes(act: () => Promise<void>): Promise<number> {
  const { hash } = crypto;
  let calls = 0;
  const counting = (...args: Parameters<typeof hash>): ReturnType<typeof hash> => {
    calls += 1;
    return hash(...args);
  };
  try {
    Object.assign(crypto, { hash: counting });
    syncBuiltinESMExports();
    await act();
  } finally {
    Object.assign(crypto, { hash });
    syncBuiltinESMExports();
  }
  return calls;
}

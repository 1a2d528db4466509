import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Chunk, type ChunkId, chunkIdOf, type ChunkStore } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { expect, it } from 'vitest';
import { type Banned, ChunkSources } from './sources.ts';

const plain = randomBytes(10_000);
const id = chunkIdOf(plain);

type Answer = (id: ChunkId, signal: AbortSignal) => Promise<Chunk>;

/** A store that counts how often it was asked, and how many of those questions were taken back. */
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
const gone: Answer = async () => {
  throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'gone');
};
const silent: Answer = (_, signal) =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

function open(...stores: ChunkStore[]) {
  const bans: Banned[] = [];
  const sources = new ChunkSources(stores, {
    // Two seconds pass in two milliseconds. A sleep that is cut short ends as any other does.
    sleep: (ms, signal) => delay(ms / 1000, undefined, { signal }).catch(() => undefined),
    onBan: ban => bans.push(ban),
  });
  const into = Buffer.alloc(20_000);
  const { signal } = new AbortController();
  return { bans, fetch: () => sources.fetch(id, { lengthBytes: plain.length, into, signal }) };
}

it('asks the next source when one takes long, and asks that one last from then on', async () => {
  const [slow, fast] = [store('slow', silent), store('fast', good)];
  const { fetch, bans } = open(slow, fast);
  expect(Buffer.from(await fetch()).equals(plain)).toBe(true);
  expect(slow.asked).toEqual({ times: 1, abandoned: 1 });
  for (let chunk = 0; chunk < 20; chunk += 1) await fetch();
  expect(slow.asked.times).toBe(1);
  expect(fast.asked.times).toBe(21);
  expect(bans).toEqual([]);
});

it('passes over a source that fails, without waiting, and bans one that sends wrong bytes', async () => {
  const [away, liar, honest] = [store('away', gone), store('liar', wrong), store('honest', good)];
  const { fetch, bans } = open(away, liar, honest);
  for (let chunk = 0; chunk < 5; chunk += 1) expect(Buffer.from(await fetch()).equals(plain)).toBe(true);
  expect(bans).toEqual([{ source: 'liar', code: 'SITECAST_CHUNK_MISMATCH' }]);
  expect([away.asked.times, liar.asked.times]).toEqual([1, 1]);
});

it('waits for the only source that there is, however slow', async () => {
  const only = store('only', async wanted => {
    await delay(50);
    return Chunk.fromPlain(wanted, plain);
  });
  expect(Buffer.from(await open(only).fetch()).equals(plain)).toBe(true);
  expect(only.asked.times).toBe(1);
});

it('says what each source said when nobody has it', async () => {
  await expect(open(store('a', gone), store('b', gone)).fetch()).rejects.toMatchObject({
    code: 'SITECAST_NO_SOURCE',
    kind: 'unreachable',
  });
});

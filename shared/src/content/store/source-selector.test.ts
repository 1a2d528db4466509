import { expect, it } from 'vitest';
import { SitecastError } from '../../errors.ts';
import type { Chunk } from '../chunk.ts';
import type { ChunkStore } from './chunk-store.ts';
import { chunkOf } from './conformance.ts';
import { SourceSelector, type SourceSelectorOptions } from './source-selector.ts';

const wanted = chunkOf('wanted');

/** A source whose answers a test gives. It counts its requests. */
function source(name: string, answer: (signal: AbortSignal | undefined) => Promise<Chunk>) {
  const asked = { times: 0 };
  const made: ChunkStore = {
    name,
    has: async () => true,
    get: async (_id, { signal } = {}) => {
      asked.times += 1;
      return await answer(signal);
    },
  };
  return Object.assign(made, { asked });
}

const good = async (): Promise<Chunk> => chunkOf('wanted');
const away = async (): Promise<Chunk> => {
  throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'nobody home');
};
const absent = async (): Promise<Chunk> => {
  throw new SitecastError('notFound', 'SITECAST_CHUNK_NOT_FOUND', 'not here');
};
const silent = (signal: AbortSignal | undefined): Promise<Chunk> =>
  new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));

/** A selector whose clock a test moves. */
function selecting(sources: ChunkStore[], options: Partial<SourceSelectorOptions> = {}) {
  const clock = { nowMs: 0 };
  const selector = new SourceSelector(sources, { restMs: 1000, now: () => clock.nowMs, ...options });
  const failures = new Map<string, SitecastError>();
  return {
    clock,
    failures,
    get: (signal?: AbortSignal) => selector.get(wanted.id, signal ? { signal } : {}, failures),
  };
}

it('asks a source that was unreachable last, until its rest is over or it answers', async () => {
  let isUp = false;
  const flaky = source('flaky', () => (isUp ? good() : away()));
  const other = source('other', good);
  const { clock, failures, get } = selecting([flaky, other]);
  expect(await get()).toBeDefined();
  expect(await get()).toBeDefined();
  expect([flaky.asked.times, other.asked.times]).toEqual([1, 2]);
  expect([...failures.keys()]).toEqual(['flaky']);
  clock.nowMs = 1001;
  isUp = true;
  await get();
  await get();
  expect([flaky.asked.times, other.asked.times]).toEqual([3, 2]);
});

it('comes to the source that has a chunk, however many others say that they lack it, or fail', async () => {
  const others = [...Array(3)].map((_, at) => source(`absent-${at}`, absent));
  const failing = [...Array(3)].map((_, at) => source(`away-${at}`, away));
  const honest = source('honest', good);
  const { clock, get } = selecting([...others, ...failing, honest], { maxAsked: 3, restsWhereAbsent: true });
  for (let times = 0; times < 2; times += 1) expect(await get()).toBeUndefined();
  expect(await get()).toBeDefined();
  expect(await get()).toBeDefined();
  expect([...others, ...failing].map(({ asked }) => asked.times)).toEqual([1, 1, 1, 1, 1, 1]);
  // All but one rest again and again; once that one has failed as well, they take turns.
  honest.asked.times = 0;
  const { get: ask } = selecting([...others, ...failing], { maxAsked: 3, restsWhereAbsent: true });
  for (let times = 0; times < 4; times += 1) expect(await ask()).toBeUndefined();
  expect([...others, ...failing].map(({ asked }) => asked.times)).toEqual([3, 3, 3, 3, 3, 3]);
  clock.nowMs = 1001;
});

it('asks another source beside a slow one, aborts the slow request, and lets that source rest though it answers', async () => {
  let isSlow = true;
  const slow = source('slow', signal => (isSlow ? silent(signal) : good()));
  const fast = source('fast', () => (isSlow ? good() : absent()));
  const { get } = selecting([slow, fast], { hedgeAfterMs: 1 });
  await get();
  isSlow = false;
  await get();
  await get();
  expect([slow.asked.times, fast.asked.times]).toEqual([3, 3]);
});

it('bans one that gives wrong bytes, or lets it rest, or passes it over, as it is told', async () => {
  const wrong = source('wrong', async () => Object.assign(chunkOf('something else'), { id: wanted.id }));
  const other = source('other', good);
  const sparing = selecting([wrong, other], { verifies: true });
  for (let times = 0; times < 3; times += 1) (await sparing.get())?.verify();
  expect([...sparing.failures.values()]).toMatchObject([{ code: 'SITECAST_CHUNK_MISMATCH' }]);
  expect(wrong.asked.times).toBe(3);
  const patient = selecting([wrong, other], { verifies: true, wrongBytes: 'rest' });
  for (let times = 0; times < 3; times += 1) (await patient.get())?.verify();
  expect(wrong.asked.times).toBe(4);
  patient.clock.nowMs = 1001;
  (await patient.get())?.verify();
  expect(wrong.asked.times).toBe(5);
  const banned: string[] = [];
  const strict = selecting([wrong, other], {
    verifies: true,
    wrongBytes: 'ban',
    onBan: name => banned.push(name),
  });
  for (let times = 0; times < 3; times += 1) (await strict.get())?.verify();
  expect(banned).toEqual(['wrong']);
  expect(wrong.asked.times).toBe(6);
});

it('throws an error that is not the source’s failure', async () => {
  const broken = source('broken', async () => {
    throw new TypeError('a mistake of ours');
  });
  await expect(selecting([broken, source('good', good)]).get()).rejects.toThrow('a mistake of ours');
});

it('gives up with the signal’s reason, and asks no further source', async () => {
  const stop = new AbortController();
  const first = source('first', async () => {
    stop.abort(new Error('enough'));
    return await away();
  });
  const second = source('second', good);
  await expect(selecting([first, second]).get(stop.signal)).rejects.toThrow('enough');
  expect(second.asked.times).toBe(0);
});

import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { SitecastError } from '../../errors.ts';
import { Chunk } from '../chunk.ts';
import { chunkIdOf } from '../chunk-id.ts';
import { rawFrame } from '../raw-frame.ts';
import { removeTemporaryDirectories, temporaryDirectory } from '../fixtures.ts';
import { compressFrame } from '../zstd.ts';
import type { ChunkStore } from './chunk-store.ts';
import { chunkOf, testChunkStore } from './conformance.ts';
import { DirectoryStore } from './directory-store.ts';
import { failover } from './source-selector.ts';
import { coalescing, compacting, verifying } from './wrappers.ts';

afterAll(removeTemporaryDirectories);

const { id } = chunkOf('wanted');

async function emptyStore(): Promise<DirectoryStore> {
  return DirectoryStore.create(join(await temporaryDirectory(), 'chunks'));
}

/** A store with the wanted chunk. */
async function good(): Promise<ChunkStore> {
  const store = await emptyStore();
  await store.put(chunkOf('wanted'));
  return store;
}

/** A store with other bytes under the wanted chunk's name. */
async function bad(): Promise<ChunkStore> {
  const store = await emptyStore();
  store.putFrameNow(id, compressFrame(Buffer.from('something else')));
  return store;
}

/** A wrapper that counts the requests to a store, and runs `before` first. */
function watched(store: ChunkStore, before: (signal?: AbortSignal) => Promise<void> = async () => {}) {
  const seen = { gets: 0, aborted: 0 };
  const inFront: ChunkStore = {
    name: store.name,
    has: (one, request) => store.has(one, request),
    get: async (one, request = {}) => {
      seen.gets += 1;
      request.signal?.addEventListener('abort', () => (seen.aborted += 1));
      await before(request.signal);
      return store.get(one, request);
    },
  };
  return { store: inFront, seen };
}

const unreachable = async () => {
  throw new SitecastError('unreachable', 'SITECAST_STORE_UNREACHABLE', 'nobody home');
};

describe.each([
  ['verifying', verifying],
  ['coalescing', coalescing],
  ['compacting', compacting],
  ['failover behind an empty store', (store: ChunkStore) => failover([missingEverything(), store])],
])('%s, as every store', (_name, wrap) => {
  testChunkStore(it, async () => {
    const store = await emptyStore();
    const fill = async (chunks: readonly Chunk[]) => {
      for (const chunk of chunks) await store.put(chunk);
    };
    return { store: wrap(store), fill, close: async () => {} };
  });
});

function missingEverything(): ChunkStore {
  return {
    name: 'empty',
    has: async (_id, request = {}) => {
      request.signal?.throwIfAborted();
      return false;
    },
    get: async () => {
      throw new SitecastError('notFound', 'SITECAST_CHUNK_NOT_FOUND', 'empty');
    },
  };
}

describe('verifying', () => {
  it('lets no wrong bytes through', async () => {
    const refused: string[] = [];
    const store = await bad();
    const checked = verifying(store, (name, { code }) => refused.push(`${name}: ${code}`));
    await expect(checked.get(id)).rejects.toMatchObject({
      code: 'SITECAST_CHUNK_MISMATCH',
      kind: 'untrusted',
      data: { id: Buffer.from(id).toString('hex') },
    });
    expect(refused).toEqual([`${store.name}: SITECAST_CHUNK_MISMATCH`]);
  });
});

describe('coalescing', () => {
  it('fetches once for concurrent requests, and again for a later one', async () => {
    const { store, seen } = watched(await good(), () => delay(30));
    const coalesced = coalescing(store);
    const chunks = await Promise.all(Array.from({ length: 50 }, () => coalesced.get(Buffer.from(id))));
    expect(chunks.every(chunk => chunk.verify().plain().length === 6)).toBe(true);
    expect(seen.gets).toBe(1);
    await coalesced.get(id);
    expect(seen.gets).toBe(2);
  });

  it('passes a failure to all that wait, and tries again for the next request', async () => {
    let isUp = false;
    const { store, seen } = watched(await good(), async () => {
      await delay(20);
      if (!isUp) await unreachable();
    });
    const coalesced = coalescing(store);
    const outcomes = await Promise.allSettled([coalesced.get(id), coalesced.get(id), coalesced.get(id)]);
    expect(outcomes.map(outcome => outcome.status)).toEqual(['rejected', 'rejected', 'rejected']);
    isUp = true;
    (await coalesced.get(id)).verify();
    expect(seen.gets).toBe(2);
  });

  it('continues for the others when one caller aborts, and stops when the last one does', async () => {
    const { store, seen } = watched(await good(), signal => delay(100, undefined, signal ? { signal } : {}));
    const coalesced = coalescing(store);
    const first = new AbortController();
    const second = new AbortController();
    const gaveUp = coalesced.get(id, { signal: first.signal });
    const served = coalesced.get(id, { signal: second.signal });
    first.abort(new Error('first'));
    await expect(gaveUp).rejects.toThrow('first');
    expect(seen.aborted).toBe(0);
    (await served).verify();

    const last = coalesced.get(id, { signal: AbortSignal.any([second.signal]) });
    second.abort(new Error('second'));
    await expect(last).rejects.toThrow('second');
    expect(seen).toEqual({ gets: 2, aborted: 1 });
    (await coalesced.get(id)).verify();
    expect(seen.gets).toBe(3);
  });

  it('goes on for a requester without a signal, whichever requesters with one give up', async () => {
    const { store, seen } = watched(await good(), signal => delay(50, undefined, signal ? { signal } : {}));
    const coalesced = coalescing(store);
    for (const isFirst of [true, false]) {
      const stop = new AbortController();
      const ask = [() => coalesced.get(id), () => coalesced.get(id, { signal: stop.signal })];
      const asked = (isFirst ? ask : ask.toReversed()).map(question => question());
      const [served, gaveUp] = isFirst ? asked : asked.toReversed();
      stop.abort(new Error('enough'));
      await expect(gaveUp).rejects.toThrow('enough');
      (await served)?.verify();
    }
    expect(seen).toEqual({ gets: 2, aborted: 0 });
  });

  it('does not join a fetch that was just aborted', async () => {
    const { store, seen } = watched(await good(), signal => delay(50, undefined, signal ? { signal } : {}));
    const coalesced = coalescing(store);
    const stop = new AbortController();
    const first = coalesced.get(id, { signal: stop.signal });
    stop.abort(new Error('first'));
    await expect(first).rejects.toThrow('first');
    (await coalesced.get(id)).verify();
    expect(seen.gets).toBe(2);
  });
});

describe('failover', () => {
  it('skips a store that lacks the chunk, one with wrong bytes, and an unreachable one', async () => {
    const away = watched(await good(), unreachable);
    const stores = [missingEverything(), verifying(await bad()), away.store, verifying(await good())];
    (await failover(stores).get(id)).verify();
    expect(await failover(stores).has(id)).toBe(true);
  });

  it('lets an unreachable store rest, and asks it again later', async () => {
    let now = 0;
    const away = watched(await good(), unreachable);
    const store = failover([away.store, await good()], { restMs: 1000, now: () => now });
    for (let at = 0; at < 5; at++) (await store.get(id)).verify();
    expect(away.seen.gets).toBe(1);
    now = 1001;
    (await store.get(id)).verify();
    expect(away.seen.gets).toBe(2);
  });

  it('lets one rest that lied, and says that nobody was reached, where it is told so', async () => {
    let now = 0;
    const liar = watched(await bad());
    const options = { restMs: 1000, wrongBytes: 'rest', now: () => now } as const;
    const store = failover([verifying(liar.store), await good()], options);
    for (let at = 0; at < 5; at++) (await store.get(id)).verify();
    expect(liar.seen.gets).toBe(1);
    now = 1001;
    (await store.get(id)).verify();
    expect(liar.seen.gets).toBe(2);
    const alone = failover([verifying(await bad()), missingEverything()], options);
    await expect(alone.get(id)).rejects.toMatchObject({ code: 'SITECAST_STORE_UNREACHABLE' });
  });

  it('does not ask one at all for a while that lied, though the others lack the chunk, where it is told so', async () => {
    let now = 0;
    const liar = watched(await bad());
    const sources = [verifying(liar.store), missingEverything()];
    // Some leave and come back: then the same store is another object.
    const store = failover(() => sources.map(source => ({ ...source })), {
      restMs: 1000,
      wrongBytes: 'exclude',
      restsWhereAbsent: true,
      maxAsked: 3,
      name: 'all',
      now: () => now,
    });
    for (const atMs of [0, 1, 999]) {
      now = atMs;
      // It may have the chunk all the same, so nobody says that it doesn't exist.
      await expect(store.get(id)).rejects.toMatchObject({ code: 'SITECAST_STORE_UNREACHABLE' });
      expect(liar.seen.gets).toBe(1);
    }
    sources.splice(1);
    await expect(store.get(id)).rejects.toMatchObject({
      code: 'SITECAST_STORE_UNREACHABLE',
      cause: { errors: [{ code: 'SITECAST_CHUNK_MISMATCH' }] },
    });
    expect(liar.seen.gets).toBe(1);
    now = 1001;
    await expect(store.get(id)).rejects.toThrow(SitecastError);
    expect(liar.seen.gets).toBe(2);
  });

  it('asks a resting store when no other is left', async () => {
    let isUp = false;
    const flaky = watched(await good(), async () => {
      if (!isUp) await unreachable();
    });
    const store = failover([flaky.store, missingEverything()], { restMs: 1_000_000 });
    await expect(store.get(id)).rejects.toMatchObject({ code: 'SITECAST_STORE_UNREACHABLE' });
    isUp = true;
    (await store.get(id)).verify();
    expect(flaky.seen.gets).toBe(2);
  });

  it('gives a hint when no store has the chunk', async () => {
    const away = watched(await good(), unreachable).store;
    const liar = verifying(await bad());
    const cases: [ChunkStore[], string][] = [
      [[missingEverything(), missingEverything()], 'SITECAST_CHUNK_NOT_FOUND'],
      [[missingEverything(), liar], 'SITECAST_CHUNK_MISMATCH'],
      [[away, liar, missingEverything()], 'SITECAST_STORE_UNREACHABLE'],
      [[], 'SITECAST_CHUNK_NOT_FOUND'],
    ];
    for (const [stores, code] of cases) {
      await expect(failover(stores).get(id)).rejects.toMatchObject({ code });
    }
    await expect(failover([missingEverything()]).has(id)).resolves.toBe(false);
  });

  it('does not go on to the next store when the caller has aborted', async () => {
    const stop = new AbortController();
    const reason = new Error('called off');
    const first = watched(await good(), async () => {
      stop.abort(reason);
      await unreachable();
    });
    const second = watched(await good());
    await expect(failover([first.store, second.store]).get(id, { signal: stop.signal })).rejects.toBe(reason);
    expect(second.seen.gets).toBe(0);
  });
});

describe('compacting', () => {
  const longText = Buffer.from('all work and no play '.repeat(20_000));
  const noise = randomBytes(200_000);

  const givenOf = async (plain: Buffer, frame: Buffer): Promise<Buffer> => {
    const store = await emptyStore();
    const wanted = chunkIdOf(plain);
    const raw: ChunkStore = {
      name: store.name,
      has: (one, request) => store.has(one, request),
      get: async () => Chunk.fromFrame(wanted, frame),
    };
    const given = await compacting(verifying(raw)).get(wanted);
    expect(given.verify().plain()).toEqual(plain);
    return Buffer.from(given.frame());
  };

  it('compresses what came as it is, of one block or of several', async () => {
    for (const plain of [longText.subarray(0, 60_000), longText])
      expect(await givenOf(plain, Buffer.concat(rawFrame(plain)))).toEqual(compressFrame(plain));
  });

  it('leaves alone what is compressed already, however weakly, and what does not become shorter', async () => {
    const weakly = compressFrame(longText, 1);
    expect(await givenOf(longText, weakly)).toEqual(weakly);
    const raw = Buffer.concat(rawFrame(noise));
    expect((await givenOf(noise, raw)).length).toBeLessThanOrEqual(raw.length);
  });
});

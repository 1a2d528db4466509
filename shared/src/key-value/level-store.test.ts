import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { LevelStore } from './level-store.ts';
import { openLevelStore, type OpenOptions } from './open.ts';
import { type Change, type KeyValueStore, startingWith } from './store.ts';
import { MemoryStore, replaceLog } from './testing/index.ts';

// A file system in memory, where there is one: syncs cost nothing there.
const base = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

let directory: string;
let path: string;
const open: LevelStore[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(base, 'sitecast-key-value-'));
  path = join(directory, 'state');
});
afterEach(async () => {
  for (const store of open.splice(0)) await store.close();
  rmSync(directory, { recursive: true });
});

const owner = { name: 'origin', dataDirectory: '/data', cure: 'Restore it.' };

async function openStore(more: Partial<OpenOptions> = {}): Promise<LevelStore> {
  const store = await openLevelStore({ path, witnessPath: `${path}.witness`, owner, ...more });
  open.push(store);
  return store;
}

async function reopened(store: LevelStore): Promise<LevelStore> {
  await store.close();
  open.splice(open.indexOf(store), 1);
  return await openStore();
}

const full = { code: 'SITECAST_NO_SPACE' };
const put = (store: KeyValueStore, key: string, value: unknown = key) => store.commit([{ key, value }]);

async function keysOf(
  store: KeyValueStore,
  range: Parameters<KeyValueStore['entries']>[0],
): Promise<string[]> {
  const keys: string[] = [];
  for await (const [key] of store.entries(range)) keys.push(key);
  return keys;
}

describe.each(['LevelDB', 'memory'])('a store in %s', kind => {
  let store: KeyValueStore;
  beforeEach(async () => {
    store = kind === 'LevelDB' ? await openStore() : new MemoryStore();
  });

  it('returns what was committed, and nothing that was deleted', async () => {
    await store.commit([
      { key: 'a', value: { b: [1, null, 'ü'] } },
      { key: 'c', value: false },
    ]);
    await store.commit([{ key: 'c', value: undefined }], { isDurable: false });
    expect([await store.get('a'), await store.get('c'), await store.get('d')]).toEqual([
      { b: [1, null, 'ü'] },
      undefined,
      undefined,
    ]);
  });

  it('lists ranges in the order of bytes, both ways, up to a limit', async () => {
    // The order of the last two would be reversed in UTF-16.
    const keys = ['a', 'a!', 'a!1', 'a!z', 'a!\uffff', 'a!\u{1f600}'];
    for (const key of [...keys, 'b', 'A']) await put(store, key);
    expect(await keysOf(store, startingWith('a!'))).toEqual(keys.slice(1));
    expect(await keysOf(store, { ...startingWith('a!'), isReversed: true, limit: 2 })).toEqual([
      'a!\u{1f600}',
      'a!\uffff',
    ]);
    expect(await keysOf(store, { from: 'a!1', below: 'a!z', limit: 5 })).toEqual(['a!1']);
    expect(await keysOf(store, { ...startingWith(''), limit: 0 })).toEqual([]);
  });
});

describe('after a failed write', () => {
  let freeBytes: number;
  let store: LevelStore;
  const told: string[] = [];
  beforeEach(async () => {
    freeBytes = 0;
    told.length = 0;
    store = await openStore({
      freeBytes: async () => freeBytes,
      onTrouble: ({ code }) => told.push(code),
      onMended: () => told.push('mended'),
    });
    await put(store, 'before');
  });

  it('a full disk refuses commits and allows reads, until there is room; all acknowledged commits last', async () => {
    replaceLog(path, '/dev/full');
    await expect(put(store, 'failed')).rejects.toMatchObject({ code: 'SITECAST_NO_SPACE', kind: 'noSpace' });
    await expect(put(store, 'failed, too')).rejects.toMatchObject({ code: 'SITECAST_NO_SPACE' });
    expect(store.trouble).toMatchObject({ code: 'SITECAST_NO_SPACE' });
    expect([await store.get('before'), await store.get('failed')]).toEqual(['before', undefined]);

    freeBytes = 2 ** 30;
    for (let count = 0; count < 20; count += 1) await put(store, `after ${count}`);
    expect([store.trouble, store.mendedCount, told]).toEqual([undefined, 1, ['SITECAST_NO_SPACE', 'mended']]);
    const next = await reopened(store);
    expect(await keysOf(next, startingWith('after'))).toHaveLength(20);
    expect(await keysOf(next, startingWith('failed'))).toEqual([]);
  });

  it('the store reopens the database by itself', async () => {
    replaceLog(path, '/dev/null', 'r');
    await expect(put(store, 'failed')).rejects.toMatchObject({
      code: 'SITECAST_STATE_UNWRITABLE',
      kind: 'unreachable',
    });
    await expect.poll(() => store.trouble).toBeUndefined();
    await put(store, 'after');
    expect(await keysOf(await reopened(store), startingWith(''))).toEqual(
      expect.not.arrayContaining(['failed']),
    );
  });

  /** Lets a commit be written, but fail when it is made durable. */
  async function failUnsynced(changes: readonly Change[]): Promise<void> {
    const pipe = join(directory, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const reader = openSync(pipe, constants.O_RDWR | constants.O_NONBLOCK);
    // A pipe accepts writes, but can't be synced.
    const log = replaceLog(path, pipe);
    await expect(store.commit(changes)).rejects.toMatchObject({ code: 'SITECAST_STATE_UNWRITABLE' });
    const bytes = Buffer.alloc(65_536);
    writeFileSync(log, bytes.subarray(0, readSync(reader, bytes)), { flag: 'a' });
    closeSync(reader);
  }

  it('a commit that was found when the database was reopened is undone', async () => {
    await put(store, 'old', 1);
    await failUnsynced([
      { key: 'old', value: 2 },
      { key: 'before', value: undefined },
      { key: 'failed', value: 'x'.repeat(100) },
    ]);
    expect(await store.get('old')).toBe(1);
    await put(store, 'after');
    const all = async (at: LevelStore) => [
      await at.get('old'),
      await at.get('before'),
      await at.get('failed'),
    ];
    expect(await all(store)).toEqual([1, 'before', undefined]);
    expect(await all(await reopened(store))).toEqual([1, 'before', undefined]);
  });

  it('the commit is there in the next process, where this one ended before undoing it', async () => {
    await failUnsynced([{ key: 'failed', value: 'failed' }]);
    expect(await (await reopened(store)).get('failed')).toBe('failed');
  });

  it('an iteration continues where it was', async () => {
    for (let count = 0; count < 50; count += 1) await put(store, `k${String(count).padStart(2, '0')}`);
    for (const isReversed of [false, true]) {
      freeBytes = 2 ** 30;
      const keys: string[] = [];
      for await (const [key] of store.entries({ ...startingWith('k'), isReversed, limit: 40 })) {
        keys.push(key);
        if (keys.length !== 20) continue;
        replaceLog(path, '/dev/full');
        await expect(put(store, 'failed')).rejects.toMatchObject(full);
        await put(store, 'z');
      }
      expect(keys).toHaveLength(40);
      expect(new Set(keys).size).toBe(40);
    }
  });

  it('no commit number is left out', async () => {
    freeBytes = 2 ** 30;
    for (let count = 0; count < 5; count += 1) {
      replaceLog(path, '/dev/full');
      await expect(put(store, 'failed')).rejects.toMatchObject(full);
      await store.commit([{ key: 'quick', value: count }], { isDurable: false });
      await put(store, 'after', count);
    }
    expect(await (await reopened(store)).get('after')).toBe(4);
  });
});

it('commits of one moment share a write, and fail together', async () => {
  const store = await openStore({ freeBytes: async () => 0 });
  await Promise.all(Array.from({ length: 200 }, (_, at) => put(store, `k${at}`)));
  expect(await keysOf(store, startingWith('#commit!'))).toHaveLength(2);
  replaceLog(path, '/dev/full');
  const results = await Promise.allSettled(Array.from({ length: 20 }, (_, at) => put(store, `f${at}`)));
  expect(results.every(({ status }) => status === 'rejected')).toBe(true);
});

it('accepts no commit after it is closed', async () => {
  const store = await openStore();
  const last = put(store, 'last');
  const closing = store.close();
  await last;
  await closing;
  await expect(put(store, 'late')).rejects.toMatchObject({ code: 'SITECAST_STOPPING' });
});

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Keyspace } from './keyspace.ts';
import { openLevelStore } from './open.ts';
import { startingWith } from './store.ts';
import { MemoryStore, type StoreUnderTest, testKeyValueStore } from './testing/index.ts';

async function openLevel(): Promise<StoreUnderTest> {
  const path = mkdtempSync(join(tmpdir(), 'sitecast-stores-'));
  const owner = { name: 'origin', dataDirectory: path, cure: '' };
  const store = await openLevelStore({
    path: join(path, 'state'),
    witnessPath: join(path, 'witness'),
    owner,
  });
  return {
    store,
    close: async () => {
      await store.close();
      rmSync(path, { recursive: true });
    },
  };
}

const inMemory = async (): Promise<StoreUnderTest> => ({ store: new MemoryStore(), close: async () => {} });

describe('LevelDB', () => {
  testKeyValueStore(it, openLevel);
});

describe('the store in memory', () => {
  testKeyValueStore(it, inMemory);
});

describe('a keyspace', () => {
  testKeyValueStore(it, async () => {
    const { store, close } = await openLevel();
    await store.commit(['room', 'room"', 'roo!a', 'rooms!a'].map(key => ({ key, value: 'another' })));
    return { store: new Keyspace(store, 'room!'), close };
  });

  it('shares a commit with another one', async () => {
    const store = new MemoryStore();
    const [one, other] = [new Keyspace(store, 'one!'), new Keyspace(store, 'other!')];
    await store.commit([one.change({ key: 'a', value: 1 }), other.change({ key: 'a', value: 2 })]);
    expect([await one.get('a'), await other.get('a')]).toEqual([1, 2]);
    await one.commit([{ key: 'a', value: undefined }]);
    expect([...store.values.keys()]).toEqual(['other!a']);
    for await (const [key] of other.entries(startingWith(''))) expect(key).toBe('a');
  });
});

import assert from 'node:assert/strict';
import { keyAfter, type KeyRange, type KeyValueStore, startingWith } from '../store.ts';

/** Registers one test with whatever runner there is (vitest's `it`). */
type Test = (name: string, body: () => Promise<void>) => void;

export interface StoreUnderTest {
  readonly store: KeyValueStore;
  readonly close: () => Promise<void>;
}

/** What every `KeyValueStore` keeps to, as tests. @param open opens an empty store */
export function testKeyValueStore(test: Test, open: () => Promise<StoreUnderTest>): void {
  const check = (name: string, body: (store: KeyValueStore) => Promise<void>) =>
    test(name, async () => {
      const { store, close } = await open();
      try {
        await body(store);
      } finally {
        await close();
      }
    });

  check('has what was committed last of each key, and nothing else', async store => {
    await store.commit([
      { key: 'a', value: { at: 1 } },
      { key: 'b', value: [1, 'two', null] },
      { key: 'a', value: { at: 2 } },
    ]);
    await store.commit([{ key: 'c', value: false }], { isDurable: false });
    await store.commit([{ key: 'b', value: undefined }]);
    assert.deepEqual(await store.get('a'), { at: 2 });
    assert.equal(await store.get('b'), undefined);
    assert.equal(await store.get('c'), false);
    assert.equal(await store.get('d'), undefined);
  });

  check('reads a range from its first key to the one before its end, either way', async store => {
    await store.commit(['a', 'b', 'b!', 'b!1', 'b"', 'c'].map(key => ({ key, value: key })));
    assert.deepEqual(await keysIn(store, { from: 'a', below: 'c' }), ['a', 'b', 'b!', 'b!1', 'b"']);
    assert.deepEqual(await keysIn(store, { from: 'b', below: 'c', isReversed: true, limit: 2 }), [
      'b"',
      'b!1',
    ]);
    assert.deepEqual(await keysIn(store, { from: 'b', below: 'b' }), []);
    assert.deepEqual(await keysIn(store, { from: keyAfter('b'), below: 'b"', limit: 1 }), ['b!']);
    assert.deepEqual(await keysIn(store, { from: 'a', below: 'c', limit: 0 }), []);
  });

  check('takes a prefix for all keys that begin with it, whatever follows', async store => {
    const keys = ['p', 'p!', 'p!z', 'p~', 'p\u00e9', 'p\u{ffff}', 'p\u{1f600}', 'q'];
    await store.commit(keys.map(key => ({ key, value: 1 })));
    assert.deepEqual(await keysIn(store, startingWith('p')), keys.slice(0, -1));
    assert.deepEqual(await keysIn(store, startingWith('p!')), ['p!', 'p!z']);
  });

  check('orders keys by their UTF-8 bytes', async store => {
    const ends = ['\u{1f600}', '\u{ff5e}', 'Z', 'a', '10', '9'];
    await store.commit(ends.map(end => ({ key: `k${end}`, value: 1 })));
    const ordered = ['10', '9', 'Z', 'a', '\u{ff5e}', '\u{1f600}'].map(end => `k${end}`);
    assert.deepEqual(await keysIn(store, startingWith('k')), ordered);
  });

  check('takes many commits at once, each as a whole', async store => {
    const commits = Array.from({ length: 50 }, (_, at) =>
      store.commit([
        { key: `one ${at}`, value: at },
        { key: `other ${at}`, value: at },
        { key: 'last', value: at },
      ]),
    );
    await Promise.all(commits);
    assert.equal((await keysIn(store, startingWith('o'))).length, 100);
    assert.equal(await store.get('last'), 49);
  });
}

async function keysIn(store: KeyValueStore, range: KeyRange): Promise<string[]> {
  const keys: string[] = [];
  for await (const [key] of store.entries(range)) keys.push(key);
  return keys;
}

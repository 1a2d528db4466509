import assert from 'node:assert/strict';
import { SitecastError } from '../../errors.ts';
import { Chunk } from '../chunk.ts';
import { chunkIdOf } from '../chunk-id.ts';
import { MAX_CHUNK_BYTES } from '../limits.ts';
import type { ChunkStore, WritableChunkStore } from './chunk-store.ts';

export { rawFrame } from '../raw-frame.ts';

/** Registers one test with whatever runner there is (vitest's `it`). */
type Test = (name: string, body: () => Promise<void>) => void;

export interface StoreUnderTest<S extends ChunkStore = ChunkStore> {
  readonly store: S;
  /** Puts chunks where the store finds them, without using the store itself. */
  readonly fill: (chunks: readonly Chunk[]) => Promise<void>;
  readonly close: () => Promise<void>;
}

/**
 * What every `ChunkStore` promises, as tests. An implementation's own test file calls this with a function that opens an
 * empty store.
 */
export function testChunkStore(test: Test, open: () => Promise<StoreUnderTest>): void {
  const check = (name: string, body: (under: StoreUnderTest) => Promise<void>) =>
    test(name, () => closing(open, body));

  check('has what it was given, and nothing else', async ({ store, fill }) => {
    await fill([chunkOf('here')]);
    assert.equal(await store.has(chunkOf('here').id), true);
    assert.equal(await store.has(chunkOf('elsewhere').id), false);
  });

  check('gives a chunk that stands up to verification, as frame and plain', async ({ store, fill }) => {
    const chunks = [chunkOf('one'), chunkOf('t'), largest()];
    await fill(chunks);
    for (const { id, lengthBytes } of chunks.map(chunk => ({
      id: chunk.id,
      lengthBytes: chunk.plain().length,
    }))) {
      const got = await store.get(id);
      assert.deepEqual(Buffer.from(got.id), Buffer.from(id));
      got.verify(lengthBytes);
      Chunk.fromFrame(id, got.frame()).verify(lengthBytes);
    }
  });

  check('says SITECAST_CHUNK_NOT_FOUND of a chunk that it lacks', async ({ store, fill }) => {
    await fill([chunkOf('here')]);
    await assert.rejects(store.get(chunkOf('elsewhere').id), hasCode('SITECAST_CHUNK_NOT_FOUND'));
  });

  check('answers many askers at once, each with its own chunk', async ({ store, fill }) => {
    const chunks = Array.from({ length: 40 }, (_, at) => chunkOf(`chunk ${at % 20}`));
    await fill(chunks.slice(0, 20));
    const got = await Promise.all(chunks.map(chunk => store.get(chunk.id)));
    for (const [at, chunk] of chunks.entries()) {
      assert.equal(Buffer.compare(got[at]?.verify().plain() ?? new Uint8Array(0), chunk.plain()), 0);
    }
  });

  check(
    'gives up at once, with the reason, when it is asked with an aborted signal',
    async ({ store, fill }) => {
      await fill([chunkOf('here')]);
      const reason = new Error('the update was called off');
      const request = { signal: AbortSignal.abort(reason) };
      const isReason = (error: unknown) => error === reason;
      await assert.rejects(store.get(chunkOf('here').id, request), isReason);
      await assert.rejects(store.has(chunkOf('here').id, request), isReason);
      (await store.get(chunkOf('here').id)).verify();
    },
  );
}

/** What every `WritableChunkStore` promises besides. */
export function testWritableChunkStore(
  test: Test,
  open: () => Promise<StoreUnderTest<WritableChunkStore>>,
): void {
  const check = (name: string, body: (under: StoreUnderTest<WritableChunkStore>) => Promise<void>) =>
    test(name, () => closing(open, body));

  check('gives back what was put, whether it came plain or as a frame', async ({ store }) => {
    const plain = chunkOf('plain');
    const frame = Chunk.fromFrame(chunkOf('frame').id, chunkOf('frame').frame());
    assert.equal(await store.put(plain), true);
    assert.equal(await store.put(frame), true);
    await store.sync();
    for (const chunk of [plain, frame]) {
      assert.equal(await store.has(chunk.id), true);
      assert.equal(Buffer.compare((await store.get(chunk.id)).verify().plain(), chunk.plain()), 0);
    }
  });

  check('says that a chunk was there already', async ({ store, fill }) => {
    await fill([chunkOf('filled')]);
    assert.equal(await store.put(chunkOf('filled')), false);
    assert.equal(await store.put(chunkOf('new')), true);
    assert.equal(await store.put(chunkOf('new')), false);
  });

  check('holds a whole chunk when many put it at once', async ({ store }) => {
    const puts = Array.from({ length: 30 }, (_, at) =>
      store.put(at % 2 === 0 ? largest() : chunkOf(`${at}`)),
    );
    await Promise.all(puts);
    await store.sync();
    (await store.get(largest().id)).verify(MAX_CHUNK_BYTES);
    for (let at = 1; at < 30; at += 2) (await store.get(chunkOf(`${at}`).id)).verify();
  });
}

/** A chunk that came plain. */
export function chunkOf(text: string): Chunk {
  const plain = Buffer.from(text);
  return Chunk.fromPlain(chunkIdOf(plain), plain);
}

function largest(): Chunk {
  const plain = Buffer.alloc(MAX_CHUNK_BYTES, 'largest');
  return Chunk.fromPlain(chunkIdOf(plain), plain);
}

async function closing<U extends StoreUnderTest>(
  open: () => Promise<U>,
  body: (under: U) => Promise<void>,
): Promise<void> {
  const under = await open();
  try {
    await body(under);
  } finally {
    await under.close();
  }
}

function hasCode(code: string): (error: unknown) => boolean {
  return error => error instanceof SitecastError && error.code === code;
}

import assert from 'node:assert/strict';
import { chunkIdOf, chunkIdToHex } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { KeyPair } from '@sitecast/shared/signing';
import type { DataDirectory } from '../../adapters/disk/data-directory.ts';
import type { Commit, FileRef, RepositoryStore, TargetRef } from '../../repository/repository-store.ts';
import type { FileStaging } from '../../staging/ports.ts';
import { batchOf, hexOf } from '../operator.ts';
import type { TestClock } from '../setup.ts';
import type { Test } from './stores.ts';

/** The stores of two origins that run at the same time on the same data, and hold nothing yet. */
export interface DataUnderTest {
  one: DataDirectory;
  other: DataDirectory;
  clock: TestClock;
  /** Those of an origin that starts now. */
  restart: () => Promise<DataDirectory>;
  /** Replaces the bytes of a published file, without using the stores. */
  spoil: (file: FileRef) => Promise<void>;
  close: () => Promise<void>;
}

type OpenData = () => Promise<DataUnderTest>;

const withData =
  (test: Test, open: OpenData) =>
  (name: string, body: (under: DataUnderTest) => Promise<void>): void =>
    test(name, async () => {
      const under = await open();
      try {
        await body(under);
      } finally {
        await under.close();
      }
    });

const bytesOf = (text: string): Buffer => Buffer.from(text);
const chunksOf = (...texts: string[]): Buffer[] => texts.map(bytesOf);
const idsOf = (chunks: readonly Buffer[]): Buffer =>
  Buffer.concat(chunks.map(chunk => Buffer.from(chunkIdOf(chunk))));
const targetOf = (name: string, text: string): TargetRef => ({ name, sha256: hexOf(bytesOf(text)) });
const isCode = (code: string) => (error: unknown) => error instanceof SitecastError && error.code === code;

async function upload(staged: FileStaging, bytes: Buffer, sha256 = hexOf(bytes)): Promise<void> {
  const receiver = await staged.receive(sha256);
  try {
    await receiver.write(bytes);
    await receiver.finish();
  } finally {
    await receiver.discard();
  }
}

async function stage({ chunks }: DataDirectory, plain: readonly Buffer[]) {
  const batch = batchOf(plain);
  const memory = new ArrayBuffer(batch.length);
  new Uint8Array(memory).set(batch);
  const { stored, known, error } = await chunks.stage(memory, batch.length);
  if (error) throw error;
  return { stored, known };
}

const statesOf = ({ chunks }: DataDirectory, plain: readonly Buffer[]) =>
  chunks.check({ ids: idsOf(plain), lengths: Uint32Array.from(plain, ({ length }) => length) });

const commitOf = (version: number, more: Partial<Commit> = {}): Commit => ({
  timestamp: bytesOf(`timestamp ${version}`),
  newRoot: undefined,
  metadata: [{ role: 'targets', version, bytes: bytesOf(`targets ${version}`) }],
  targets: [],
  chunks: new Uint8Array(),
  usedVersions: { timestamp: version, snapshot: version, rollouts: 1, deltas: 1 },
  leap: undefined,
  ...more,
});

async function publish({ published }: DataDirectory, commit: Commit): Promise<void> {
  await published.commit(commit);
  assert.equal((await published.settle()).outcome, 'completed');
}

async function opened(store: RepositoryStore, file: FileRef): Promise<string> {
  const found = await store.open(file);
  return typeof found === 'string' ? found : String(await found.read(0, found.lengthBytes));
}

const manifest = targetOf('releases/camera-1.json', 'manifest');
const index = targetOf('releases/camera-1.caibx', 'index');
const targets = [
  { ...manifest, bytes: bytesOf('manifest') },
  { ...index, bytes: bytesOf('index') },
];

/** What every `RepositoryStore` keeps to, as tests. */
export function testRepositoryStore(test: Test, open: OpenData): void {
  const check = withData(test, open);
  testCommits(check);
  testRepairs(check);
  testPruning(check);
}

type Check = ReturnType<typeof withData>;

function testCommits(check: Check): void {
  check('holds nothing at first, and knows of no version', async ({ one }) => {
    assert.deepEqual(await one.published.settle(), { outcome: 'unknown', floor: undefined, leap: undefined });
    assert.equal(await one.published.timestamp(), undefined);
    assert.equal(await one.published.metadata('root', 1), undefined);
    assert.deepEqual(await one.published.newestVersions(), new Map());
    assert.equal(await one.published.target(manifest), undefined);
    assert.equal(await one.published.open({ kind: 'target', ...manifest }), 'missing');
  });

  check('has all of a commit, also for an origin that runs beside it', async ({ one, other, restart }) => {
    const plain = chunksOf('chunk a', 'chunk b');
    await stage(one, plain);
    await upload(other.staged, bytesOf('index'));
    const leap = { leaptMs: 5, issuedMs: 7 };
    await publish(one, {
      ...commitOf(1, { chunks: idsOf(plain), leap }),
      newRoot: { role: 'root', version: 2, bytes: bytesOf('root 2') },
      targets: [{ ...manifest, bytes: bytesOf('manifest') }, index],
    });
    for (const { published, publishedChunks } of [one, other, await restart()]) {
      assert.equal(String(await published.timestamp()), 'timestamp 1');
      assert.equal(String(await published.metadata('targets', 1)), 'targets 1');
      assert.equal(String(await published.metadata('root', 2)), 'root 2');
      assert.deepEqual(await published.newestVersions(), new Map(Object.entries({ root: 2, targets: 1 })));
      assert.equal(String(await published.target(index)), 'index');
      assert.equal(await opened(published, { kind: 'target', ...manifest }), 'manifest');
      assert.equal(await opened(published, { kind: 'metadata', role: 'targets', version: 1 }), 'targets 1');
      assert.equal((await publishedChunks.lacking(idsOf(plain))).length, 0);
    }
    const { usedVersions } = commitOf(1);
    const settled = { outcome: 'nothingUnderWay', floor: usedVersions, leap };
    assert.deepEqual(await (await restart()).published.settle(), settled);
  });

  check('undoes a commit that fails, but for its version numbers', async ({ one, other }) => {
    await publish(one, commitOf(1, { targets }));
    const plain = chunksOf('chunk a');
    await stage(one, plain);
    const failing = commitOf(2, {
      newRoot: { role: 'root', version: 2, bytes: bytesOf('root 2') },
      targets: [
        { ...targetOf('products/camera.json', 'product'), bytes: bytesOf('product') },
        targetOf('products/door.json', 'never uploaded'),
      ],
      chunks: idsOf(plain),
    });
    await assert.rejects(one.published.commit(failing), isCode('SITECAST_STAGING_DAMAGED'));
    const { outcome, floor } = await one.published.settle();
    assert.deepEqual([outcome, floor], ['undone', failing.usedVersions]);
    for (const { published, publishedChunks } of [one, other]) {
      assert.equal(String(await published.timestamp()), 'timestamp 1');
      assert.deepEqual(await published.newestVersions(), new Map(Object.entries({ targets: 1 })));
      assert.equal(await published.target(targetOf('products/camera.json', 'product')), undefined);
      assert.equal(String(await published.target(index)), 'index');
      assert.deepEqual(Buffer.from(await publishedChunks.lacking(idsOf(plain))), idsOf(plain));
    }
    assert.deepEqual(await statesOf(one, plain), ['staged']);
  });
}

function testRepairs(check: Check): void {
  check('reports damage of a target once, and gives it back from its copy', async ({ one, other, spoil }) => {
    await publish(one, commitOf(1, { targets }));
    await one.published.keepCopies([manifest, index]);
    for (const file of [manifest, index]) {
      const ref: FileRef = { kind: 'target', ...file };
      await spoil(ref);
      assert.equal(await one.published.target(file), undefined);
      assert.deepEqual(
        [await opened(one.published, ref), await opened(one.published, ref)],
        ['damaged', 'missing'],
      );
    }
    const restored = await Promise.all([
      one.published.restoreTarget(manifest),
      other.published.restoreTarget(manifest),
    ]);
    assert.deepEqual(restored.map(String), ['manifest', 'manifest']);
    assert.equal(await opened(one.published, { kind: 'target', ...manifest }), 'manifest');
    // An index can be made anew.
    assert.equal(await one.published.restoreTarget(index), undefined);
    assert.equal(await one.published.repairTarget(index, bytesOf('index')), true);
    assert.equal(await other.published.repairTarget(index, bytesOf('index')), false);
    assert.equal(await opened(other.published, { kind: 'target', ...index }), 'index');
  });

  check('takes a file out of what is served', async ({ one, other }) => {
    await publish(one, commitOf(1, { targets }));
    await other.published.setAside({ kind: 'target', ...manifest });
    await other.published.setAside({ kind: 'target', ...manifest });
    for (const { published } of [one, other]) {
      assert.equal(await published.target(manifest), undefined);
      assert.equal(await published.open({ kind: 'target', ...manifest }), 'missing');
    }
  });

  check('writes metadata anew that was spoilt', async ({ one, other, spoil }) => {
    const [file] = commitOf(1).metadata;
    assert.ok(file);
    await publish(one, commitOf(1));
    assert.equal(await one.published.repairMetadata(file), false);
    await spoil({ kind: 'metadata', role: 'targets', version: 1 });
    assert.equal(await other.published.repairMetadata(file), true);
    assert.equal(String(await one.published.metadata('targets', 1)), 'targets 1');
    const timestamp = { role: 'timestamp' as const, version: 1, bytes: bytesOf('timestamp 1') };
    assert.equal(await one.published.repairMetadata(timestamp), false);
  });
}

function testPruning(check: Check): void {
  check('prunes what nothing has referred to for a day, and no root', async ({ one }) => {
    const root = { role: 'root' as const, version: 1, bytes: bytesOf('root 1') };
    await publish(one, commitOf(1, { targets, newRoot: root }));
    await one.published.keepCopies([manifest]);
    await publish(one, commitOf(2));
    const referenced = { metadata: [{ role: 'targets' as const, version: 2 }], targets: [index] };
    assert.equal(await one.published.prune(referenced, 0), 0);
    assert.equal(String(await one.published.target(manifest)), 'manifest');
    assert.equal(await one.published.prune(referenced, 86_400_000), 2);
    assert.equal(await one.published.target(manifest), undefined);
    assert.equal(await one.published.restoreTarget(manifest), undefined);
    assert.deepEqual(await one.published.newestVersions(), new Map(Object.entries({ root: 1, targets: 2 })));
    assert.equal(String(await one.published.target(index)), 'index');
  });

  check('keeps deferred rollouts until they are replaced', async ({ one, restart }) => {
    assert.equal((await one.published.deferredRollouts()).size, 0);
    const byName = new Map([['rollouts/camera.json', bytesOf('{}')]]);
    await one.published.deferRollouts(byName);
    const next = await restart();
    for (const { published } of [one, next]) assert.deepEqual(await published.deferredRollouts(), byName);
    await next.published.deferRollouts(new Map());
    for (const { published } of [next, await restart()])
      assert.equal((await published.deferredRollouts()).size, 0);
  });
}

/** What every `ChunkStaging` and `PublishedChunks` keep to, as tests. */
export function testChunks(test: Test, open: OpenData): void {
  const check = withData(test, open);
  const plain = chunksOf('chunk a', 'chunk b', 'chunk c');
  const [a = Buffer.alloc(0), b = Buffer.alloc(0), c = Buffer.alloc(0)] = plain;

  check('stages chunks once, and says which are missing in the order asked', async ({ one }) => {
    assert.deepEqual(await stage(one, [a, b]), { stored: 2, known: 0 });
    assert.deepEqual(await stage(one, [b]), { stored: 0, known: 1 });
    assert.deepEqual(Buffer.from(await one.chunks.missing(idsOf([c, a, c]))), idsOf([c, c]));
    assert.equal((await one.chunks.totals()).chunks, 2);
    const lengths = Uint32Array.from([a.length, b.length + 1, c.length]);
    const states = await one.chunks.check({ ids: idsOf(plain), lengths });
    assert.deepEqual(states, ['staged', 'wrongLength', 'missing']);
  });

  check('publishes chunks that two origins have staged at once', async ({ one, other, restart }) => {
    await Promise.all([stage(one, plain), stage(other, plain)]);
    await publish(one, commitOf(1, { chunks: idsOf(plain) }));
    for (const origin of [one, other, await restart()]) {
      assert.equal((await origin.chunks.missing(idsOf(plain))).length, 0);
      assert.deepEqual(await statesOf(origin, plain), ['published', 'published', 'published']);
      assert.equal((await origin.publishedChunks.lacking(idsOf(plain))).length, 0);
      assert.deepEqual(await stage(origin, [a]), { stored: 0, known: 1 });
      const listed: string[] = [];
      for await (const ids of origin.publishedChunks.list())
        for (let at = 0; at < ids.length; at += 32) listed.push(chunkIdToHex(ids.subarray(at, at + 32)));
      assert.deepEqual(listed.sort(), plain.map(chunk => chunkIdToHex(chunkIdOf(chunk))).sort());
    }
  });

  check('prunes what nobody has asked for in a long time', async ({ one, clock }) => {
    await stage(one, [a, b]);
    clock.passDays(2);
    // It claims the chunk for a commit to come.
    await statesOf(one, [a]);
    assert.equal(await one.chunks.prune(clock.nowMs - 1), 1);
    assert.deepEqual(await statesOf(one, [a, b]), ['staged', 'missing']);
  });

  check('finds spoilt chunks by reading them back, and takes them again', async ({ one, other, spoil }) => {
    await stage(one, plain);
    await publish(one, commitOf(1, { chunks: idsOf(plain) }));
    await spoil({ kind: 'chunk', id: chunkIdOf(b) });
    const { damaged, readBytes } = await one.publishedChunks.inspect(idsOf(plain));
    assert.deepEqual(Buffer.from(damaged), idsOf([b]));
    assert.ok(readBytes > 0);
    for (const { publishedChunks } of [one, other])
      assert.deepEqual(Buffer.from(await publishedChunks.lacking(idsOf(plain))), idsOf([b]));
    assert.deepEqual(await stage(one, [b]), { stored: 1, known: 0 });
    await one.publishedChunks.repair(idsOf([b]));
    for (const { publishedChunks } of [one, other]) {
      assert.equal((await publishedChunks.lacking(idsOf(plain))).length, 0);
      assert.equal((await publishedChunks.inspect(idsOf(plain))).damaged.length, 0);
    }
  });
}

/** What every `FileStaging` keeps to, as tests. */
export function testFileStaging(test: Test, open: OpenData): void {
  const check = withData(test, open);
  const [bytes, sha256] = [bytesOf('index'), hexOf(bytesOf('index'))];

  check('keeps a file that has the announced hash, for all origins', async ({ one, other, restart }) => {
    await Promise.all([upload(one.staged, bytes), upload(other.staged, bytes)]);
    for (const { staged } of [one, other, await restart()])
      assert.equal(String(await staged.read(sha256)), 'index');
    await other.staged.remove(sha256);
    await other.staged.remove(sha256);
    for (const { staged } of [one, other]) assert.equal(await staged.read(sha256), undefined);
  });

  check('keeps nothing that has another hash, or is given up', async ({ one }) => {
    await assert.rejects(upload(one.staged, bytes, 'a'.repeat(64)), isCode('SITECAST_HASH_MISMATCH'));
    const receiver = await one.staged.receive(sha256);
    await receiver.write(bytes);
    await receiver.discard();
    for (const wanted of [sha256, 'a'.repeat(64)]) assert.equal(await one.staged.read(wanted), undefined);
  });

  check('prunes what nobody has read in a long time', async ({ one, clock }) => {
    await upload(one.staged, bytes);
    clock.passDays(2);
    assert.equal(await one.staged.prune(clock.nowMs - 3 * 86_400_000), 0);
    assert.equal(String(await one.staged.read(sha256)), 'index');
    assert.equal(await one.staged.prune(clock.nowMs), 0);
    clock.passDays(2);
    assert.equal(await one.staged.prune(clock.nowMs), 1);
    assert.equal(await one.staged.read(sha256), undefined);
  });
}

/** What every `KeyStore` keeps to, as tests. */
export function testKeyStore(test: Test, open: OpenData): void {
  const check = withData(test, open);
  const idIn = async ({ keyStore }: DataDirectory, use: 'active' | 'pending') => {
    const key = await keyStore.read('snapshot', use);
    return key.state === 'usable' ? key.pair.keyId : key.state;
  };

  check('keeps the first of the keys that two origins add at once', async ({ one, other, restart }) => {
    assert.equal(await idIn(one, 'active'), 'missing');
    const added = await Promise.all(
      [one, other].map(({ keyStore }) => keyStore.add('snapshot', 'active', KeyPair.generate())),
    );
    const [first, second] = added.map(({ keyId }) => keyId);
    assert.equal(first, second);
    for (const origin of [one, other, await restart()]) assert.equal(await idIn(origin, 'active'), first);
    assert.equal((await one.keyStore.read('timestamp', 'active')).state, 'missing');
  });

  check('puts the pending key in the place of the active one', async ({ one, other, restart }) => {
    await one.keyStore.add('snapshot', 'active', KeyPair.generate());
    const next = await one.keyStore.add('snapshot', 'pending', KeyPair.generate());
    assert.notEqual(await idIn(other, 'active'), next.keyId);
    await one.keyStore.activate('snapshot', next);
    await other.keyStore.activate('snapshot', next);
    for (const origin of [one, other, await restart()])
      assert.deepEqual(
        [await idIn(origin, 'active'), await idIn(origin, 'pending')],
        [next.keyId, 'missing'],
      );
    assert.notEqual(one.keyStore.label('snapshot', 'active'), one.keyStore.label('snapshot', 'pending'));
  });

  check('activates a key whose pending copy was lost', async ({ one, other }) => {
    await one.keyStore.add('snapshot', 'active', KeyPair.generate());
    const next = KeyPair.generate();
    await one.keyStore.activate('snapshot', next);
    assert.equal(await idIn(other, 'active'), next.keyId);
  });
}

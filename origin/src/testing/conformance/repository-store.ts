import assert from 'node:assert/strict';
import type { FileRef, RepositoryStore, TargetRef } from '../../repository/repository-store.ts';
import { hexOf } from '../operator.ts';
import {
  bytesOf,
  chunksOf,
  commitOf,
  type DataUnderTest,
  idsOf,
  isCode,
  type OpenData,
  publish,
  stage,
  statesOf,
  upload,
} from './data-under-test.ts';
import { type Test, withOpened } from './test.ts';

const targetOf = (name: string, text: string): TargetRef => ({ name, sha256: hexOf(bytesOf(text)) });

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

/** The conformance suite of `RepositoryStore`. */
export function testRepositoryStore(test: Test, open: OpenData): void {
  const check = withOpened(test, open);
  testCommits(check);
  testRepairs(check);
  testPruning(check);
}

type Check = ReturnType<typeof withOpened<DataUnderTest>>;

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
    // An index can be restored.
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

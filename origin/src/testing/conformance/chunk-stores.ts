import assert from 'node:assert/strict';
import { chunkIdOf, chunkIdToHex } from '@sitecast/shared/content';
import { partOf } from '../../repository/repository-store.ts';
import { chunksOf, commitOf, idsOf, type OpenData, publish, stage, statesOf } from './data-under-test.ts';
import { type Test, withOpened } from './test.ts';

/** The conformance suite of `ChunkStaging` and `PublishedChunks`. */
export function testChunks(test: Test, open: OpenData): void {
  testUnusedChunks(test, open);
  const check = withOpened(test, open);
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
    // This claims the chunk for a later commit.
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

/** Finding and deleting published chunks that nothing needs. */
function testUnusedChunks(test: Test, open: OpenData): void {
  const check = withOpened(test, open);
  const plain = chunksOf('chunk a', 'chunk b', 'chunk c');
  const [a = Buffer.alloc(0), b = Buffer.alloc(0), c = Buffer.alloc(0)] = plain;

  check(
    'deletes published chunks that nothing needs, but none that an upload asks for',
    async ({ one, other, clock }) => {
      await stage(one, plain);
      await publish(one, commitOf(1, { chunks: idsOf(plain) }));
      assert.equal(await one.publishedChunks.removeUnused(idsOf(plain), clock.nowMs), 0);
      clock.passDays(2);
      await other.chunks.missing(idsOf([a]));
      assert.deepEqual(await stage(other, [b]), { stored: 0, known: 1 });
      assert.equal(await one.publishedChunks.removeUnused(idsOf(plain), clock.nowMs - 1), 1);
      for (const { publishedChunks } of [one, other])
        assert.deepEqual(Buffer.from(await publishedChunks.lacking(idsOf(plain))), idsOf([c]));
      assert.deepEqual(await statesOf(one, plain), ['published', 'published', 'missing']);
      assert.deepEqual(await stage(one, [c]), { stored: 1, known: 0 });
    },
  );

  check('lists chunks in parts, each in one of them', async ({ one }) => {
    const many = chunksOf(...Array.from({ length: 20 }, (_, at) => `chunk ${at}`));
    await stage(one, many);
    await publish(one, commitOf(1, { chunks: idsOf(many) }));
    const sizes = await Promise.all(
      [0, 1, 2].map(async part => {
        let count = 0;
        for await (const ids of one.publishedChunks.list({ part, parts: 3 })) {
          count += ids.length / 32;
          for (let at = 0; at < ids.length; at += 32)
            assert.equal(partOf(Buffer.from(ids).readUInt16BE(at), 3), part);
        }
        return count;
      }),
    );
    assert.equal(
      sizes.reduce((sum, size) => sum + size),
      many.length,
    );
    assert.ok(sizes.every(size => size < many.length));
  });
}

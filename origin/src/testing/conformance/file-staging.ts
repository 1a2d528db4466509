import assert from 'node:assert/strict';
import { hexOf } from '../operator.ts';
import { bytesOf, isCode, type OpenData, upload } from './data-under-test.ts';
import { type Test, withOpened } from './test.ts';

/** The conformance suite of `FileStaging`. */
export function testFileStaging(test: Test, open: OpenData): void {
  const check = withOpened(test, open);
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

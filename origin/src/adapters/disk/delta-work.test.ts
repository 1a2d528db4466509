import { sleep } from '@sitecast/shared/async';
import { expect, it } from 'vitest';
import { testLog } from '../../testing/origin.ts';
import { temporaryDirectory } from '../../testing/setup.ts';
import { testDisk } from './testing/test-disk.ts';

it('keeps the windows of unfinished deltas within a bound: the oldest go first, those of the one that is made stay', async () => {
  const directory = temporaryDirectory();
  const options = { maxStagedBytes: 2 ** 20, now: Date.now, log: testLog() };
  const { deltaWork } = await testDisk(directory.path).openData(options);
  const place = { targetOffset: 0, targetLength: 1, baseOffset: 0, baseLength: 1, frameBytes: 1 };
  const names = [1, 2, 3].map(from => ({ product: 'camera', from, to: 9 }));
  const [first] = names;
  if (!first) throw new Error();
  for (const name of names) {
    for (const firstChunk of [0, 1])
      await deltaWork.keepWindow(name, { ...place, firstChunk, chunkCount: 1, patch: Buffer.alloc(1000) });
    await sleep(20);
  }
  const counts = () => Promise.all(names.map(async name => (await deltaWork.windows(name)).length));
  await deltaWork.makeRoomFor(first, 10_000);
  expect(await counts()).toEqual([2, 2, 2]);
  await deltaWork.makeRoomFor(first, 3000);
  expect(await counts()).toEqual([2, 0, 2]);
  await deltaWork.makeRoomFor(first, 0);
  expect(await counts()).toEqual([2, 0, 0]);
  await directory.remove();
});

import { type ChunkId, Chunk, chunkIdToHex } from '@sitecast/shared/content';
import { expect, it } from 'vitest';
import { FetchQueue } from './fetch-queue.ts';
import { MemoryStore } from './memory-store.ts';

const idOf = (number: number): ChunkId => {
  const id = Buffer.alloc(32);
  id.writeUInt32BE(number, 28);
  return id;
};
const numberOf = ({ id }: Chunk): number => Buffer.from(id).readUInt32BE(28);

/** A queue that fetches one chunk at a time. The test starts each fetch. */
function harness() {
  const begun: number[] = [];
  const kept: string[] = [];
  let go: (() => void)[] = [];
  const queue = new FetchQueue({
    source: {
      name: 'a source',
      has: async () => true,
      get: async id => {
        const chunk = Chunk.fromFrame(Uint8Array.from(id), id);
        begun.push(numberOf(chunk));
        await new Promise<void>(resolve => go.push(resolve));
        return chunk;
      },
    },
    memory: new MemoryStore(0),
    disk: { put: async ({ id }) => kept.push(chunkIdToHex(id)) },
    atOnce: 1,
  });
  const fetch = async (requester: string, number: number): Promise<number> =>
    numberOf(await queue.get(idOf(number), { requester }));
  const run = async (): Promise<void> => {
    while (go.length > 0) {
      for (const next of go) next();
      go = [];
      await new Promise(setImmediate);
    }
  };
  return { queue, begun, kept, fetch, run };
}

it('fetches a chunk once, at the first turn of any of its requesters, and caches it', async () => {
  const { fetch, begun, kept, run } = harness();
  const stranger = Promise.all([1, 2, 3, 4, 5].map(number => fetch('stranger', number)));
  const device = Promise.all([fetch('device', 5), fetch('device', 6)]);
  await run();
  expect(await device).toEqual([5, 6]);
  expect(await stranger).toEqual([1, 2, 3, 4, 5]);
  expect(begun).toEqual([1, 2, 5, 3, 6, 4]);
  expect(kept).toHaveLength(6);
});

it('refuses only the requester with the most requests, and serves it what others request, too', async () => {
  const { fetch, queue, run } = harness();
  const strangers = Array.from({ length: 2049 }, (_, at) => fetch('stranger', at));
  const outcomes = Promise.allSettled(strangers);
  // Chunk 0 is being fetched. Chunk 1 gives up its place, and the device wants it, too. Then chunk 2 gives up its place.
  const device = [fetch('device', 1), fetch('device', 9999)];
  await run();
  expect(await Promise.all(device)).toEqual([1, 9999]);
  const refused = (await outcomes).filter(({ status }) => status === 'rejected');
  expect(refused).toMatchObject([{ reason: { code: 'SITECAST_BUSY' } }]);
  expect(queue).toMatchObject({ givenUp: 2, waiting: 0 });
});

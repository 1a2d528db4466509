import { expect, it } from 'vitest';
import { FetchQueue } from './fetch-queue.ts';

/** A queue that fetches one chunk at a time, each when it's told to. */
function bed() {
  const queue = new FetchQueue(1);
  const begun: string[] = [];
  let go: (() => void)[] = [];
  const fetch = (owner: string, hex: string): Promise<Buffer> =>
    queue.fetch(owner, hex, async onFetched => {
      begun.push(hex);
      await new Promise<void>(resolve => go.push(resolve));
      onFetched(Buffer.from(hex));
    });
  const run = async (): Promise<void> => {
    while (go.length > 0) {
      for (const next of go) next();
      go = [];
      await new Promise(setImmediate);
    }
  };
  return { queue, begun, fetch, run };
}

it('fetches a chunk once, in the first turn of those who ask for it', async () => {
  const { fetch, begun, run } = bed();
  const stranger = Promise.all(['1', '2', '3', '4', '5'].map(hex => fetch('stranger', hex)));
  const device = Promise.all([fetch('device', '5'), fetch('device', '6')]);
  await run();
  expect((await device).map(String)).toEqual(['5', '6']);
  expect((await stranger).map(String)).toEqual(['1', '2', '3', '4', '5']);
  expect(begun).toEqual(['1', '2', '5', '3', '6', '4']);
});

it('asks only those who want the most to come again, and gives them what others want too', async () => {
  const { fetch, queue, run } = bed();
  const strangers = Array.from({ length: 2049 }, (_, at) => fetch('stranger', `${at}`));
  const outcomes = Promise.allSettled(strangers);
  // 0 is under way; 1 gives its place up, and is wanted by the device too; then 2 gives up its own.
  const device = [fetch('device', '1'), fetch('device', 'another')];
  await run();
  expect((await Promise.all(device)).map(String)).toEqual(['1', 'another']);
  const refused = (await outcomes).filter(({ status }) => status === 'rejected');
  expect(refused).toMatchObject([{ reason: { code: 'SITECAST_BUSY' } }]);
  expect(queue).toMatchObject({ givenUp: 2, waiting: 0 });
});

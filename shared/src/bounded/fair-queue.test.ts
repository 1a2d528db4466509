import { expect, it } from 'vitest';
import { until } from '../testing/index.ts';
import { FairQueue } from './fair-queue.ts';

/** Work that ends on command. Its starts, and the work that was dropped, are recorded. */
function testQueue(options: { maxRunning?: number; maxWaiting?: number }) {
  const queue = new FairQueue({ maxRunning: 1, maxWaiting: 100, ...options });
  const begun: string[] = [];
  const givenUp: string[] = [];
  const ends: (() => void)[] = [];
  const add = (owner: string, name: string): (() => void) =>
    queue.add(
      owner,
      () => {
        begun.push(name);
        return new Promise<void>(resolve => ends.push(resolve));
      },
      () => givenUp.push(name),
    );
  const endAll = async (): Promise<void> => {
    while (ends.length > 0) {
      for (const end of ends.splice(0)) end();
      await new Promise(setImmediate);
    }
  };
  return { queue, begun, givenUp, add, endAll };
}

it('gives each owner its turn, however much another has waiting', async () => {
  const { add, begun, endAll } = testQueue({});
  for (let at = 0; at < 5; at += 1) add('greedy', `greedy ${at}`);
  for (let at = 0; at < 2; at += 1) add('modest', `modest ${at}`);
  await endAll();
  expect(begun).toEqual(['greedy 0', 'greedy 1', 'modest 0', 'greedy 2', 'modest 1', 'greedy 3', 'greedy 4']);
});

it('drops the oldest work of the owner that has the most, where too much waits', async () => {
  const { add, begun, givenUp, endAll, queue } = testQueue({ maxWaiting: 3 });
  for (let at = 0; at < 4; at += 1) add('greedy', `greedy ${at}`);
  add('modest', 'modest');
  expect(givenUp).toEqual(['greedy 1']);
  await endAll();
  expect(begun).toContain('modest');
  expect(queue).toMatchObject({ waiting: 0, givenUp: 1 });
});

it('continues after work that failed, and when its rate allows it', async () => {
  let tokens = 1;
  const queue = new FairQueue({ maxRunning: 1, maxWaiting: 10, mayBegin: () => tokens-- > 0 });
  const begun: string[] = [];
  queue.add(
    'a',
    () => Promise.reject(new Error('failed')),
    () => undefined,
  );
  const turns = Promise.all(['b', 'c'].map(async owner => (await queue.turn(owner)) && begun.push(owner)));
  await new Promise(setImmediate);
  expect(begun).toEqual([]);
  tokens = 2;
  await turns;
  await until('all is done', () => queue.waiting === 0);
  expect(begun).toEqual(['b', 'c']);
});

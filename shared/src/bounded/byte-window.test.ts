import { expect, it } from 'vitest';
import { ByteWindow } from './byte-window.ts';

const settled = () => new Promise(resolve => setImmediate(resolve));

it('admits what fits, in order of arrival, up to the last byte', async () => {
  const window = new ByteWindow(100, 10);
  await window.take(60);
  await window.take(40);
  expect(window.usedBytes).toBe(100);
  const order: string[] = [];
  void window.take(50).then(() => order.push('large'));
  void window.take(1).then(() => order.push('small'));
  await settled();
  window.give(40);
  await settled();
  // The small one would fit, but it came later.
  expect(order).toEqual([]);
  window.give(60);
  await settled();
  expect(order).toEqual(['large', 'small']);
});

it('bounds the number of entries, too', async () => {
  const window = new ByteWindow(100, 2);
  await window.take(1);
  await window.take(1);
  let isIn = false;
  void window.take(1).then(() => {
    isIn = true;
  });
  await settled();
  expect(isIn).toBe(false);
  window.give(1);
  await settled();
  expect(isIn).toBe(true);
});

it('admits an entry larger than the window when it is alone', async () => {
  const window = new ByteWindow(100, 10);
  await window.take(101);
  expect(window.usedBytes).toBe(101);
});

it('forgets an entry that gives up, and continues with the next', async () => {
  const window = new ByteWindow(100, 10);
  await window.take(90);
  const stop = new AbortController();
  const first = window.take(50, stop.signal);
  const second = window.take(10);
  stop.abort(new Error('enough'));
  await expect(first).rejects.toThrow('enough');
  await second;
  expect(window.usedBytes).toBe(100);
  await expect(window.take(1, stop.signal)).rejects.toThrow('enough');
});

import { expect, it } from 'vitest';
import { Pacer } from './pacer.ts';

it('lets a burst through, then so many bytes a second for all senders together', () => {
  let nowMs = 1000;
  const pacer = new Pacer(1000, { now: () => nowMs });
  expect(pacer.delayOf(100)).toBe(0);
  expect(pacer.delayOf(100)).toBe(0);
  expect(pacer.delayOf(500)).toBe(100);
  expect(pacer.delayOf(1)).toBe(600);
  nowMs += 10_000;
  expect(pacer.delayOf(1)).toBe(0);
});

it('says when all has gone out, without a burst where none is allowed, at the rate of the moment', () => {
  let nowMs = 1000;
  let bytesPerS = 1000;
  const pacer = new Pacer(() => bytesPerS, { burstMs: 0, now: () => nowMs });
  expect(pacer.leftMs).toBe(0);
  pacer.count(100);
  expect(pacer.leftMs).toBe(100);
  bytesPerS = 500;
  pacer.count(100);
  expect(pacer.leftMs).toBe(300);
  nowMs += 10_000;
  expect(pacer.leftMs).toBe(0);
  pacer.count(100);
  expect(pacer.leftMs).toBe(200);
});

it('gives owners turns, and lets whoever leaves the line cost nothing', async () => {
  const pacer = new Pacer(1_000_000, { burstMs: 0 });
  const passed: string[] = [];
  const leaves = new AbortController();
  const take = (owner: string, signal = new AbortController().signal) =>
    pacer.take(20_000, signal, owner).then(() => passed.push(owner));
  const all = [take('greedy'), take('greedy'), take('greedy'), take('greedy')];
  const left = take('left', leaves.signal);
  all.push(take('modest'));
  leaves.abort(new Error('it has gone'));
  await expect(left).rejects.toThrow('it has gone');
  await Promise.all(all);
  expect(passed).toEqual(['greedy', 'greedy', 'modest', 'greedy', 'greedy']);
  await expect(take('left', leaves.signal)).rejects.toThrow('it has gone');
});

it('lets the next pass where the one whose turn it is leaves', async () => {
  const pacer = new Pacer(1000, { burstMs: 0 });
  const leaves = new AbortController();
  pacer.count(50);
  const left = pacer.take(100_000, leaves.signal);
  const next = pacer.take(10, new AbortController().signal);
  leaves.abort(new Error('it has gone'));
  await expect(left).rejects.toThrow('it has gone');
  await next;
  expect(pacer.leftMs).toBeLessThanOrEqual(10);
});

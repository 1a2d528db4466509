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

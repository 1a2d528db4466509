import { expect, it } from 'vitest';
import { Pacer } from './pacer.ts';

it('lets a burst through, then so many bytes a second for all together', () => {
  let nowMs = 1000;
  const pacer = new Pacer(1000, () => nowMs);
  expect(pacer.delayOf(100)).toBe(0);
  expect(pacer.delayOf(100)).toBe(0);
  expect(pacer.delayOf(500)).toBe(100);
  expect(pacer.delayOf(1)).toBe(600);
  nowMs += 10_000;
  expect(pacer.delayOf(1)).toBe(0);
});

import { expect, it } from 'vitest';
import { ByteBudget } from './byte-budget.ts';

it('grants bytes up to its limit, and not one more', () => {
  const budget = new ByteBudget(10);
  expect([budget.tryTake(7), budget.tryTake(4), budget.tryTake(3)]).toEqual([true, false, true]);
  budget.giveBack(7);
  expect(budget.usedBytes).toBe(3);
});

it('counts bytes that are held already, also beyond the limit', () => {
  const budget = new ByteBudget(10);
  budget.takeAnyway(12);
  expect([budget.usedBytes, budget.tryTake(1)]).toEqual([12, false]);
});

it('gets a lease back once, however often it is returned', () => {
  const budget = new ByteBudget(10);
  const release = budget.tryLease(10);
  expect(budget.tryLease(1)).toBeUndefined();
  release?.();
  release?.();
  expect(budget.usedBytes).toBe(0);
});

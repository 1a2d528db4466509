import { expect, it } from 'vitest';
import { RefusalLimit } from './refusal-limit.ts';

const SECOND_MS = 1000;

let nowMs = 0;
let checks = 0;
const limit = () => new RefusalLimit({ perS: 0.5, burst: 2, now: () => nowMs });
const check = (isAdmitted: boolean) => () => {
  checks += 1;
  return isAdmitted;
};

it('checks no request of a sender that was refused too often, and checks again later', () => {
  const refusals = limit();
  checks = 0;
  const bad = () => refusals.check('stranger', check(false));
  expect([bad(), bad(), bad()]).toEqual(['refused', 'refused', 'tooOften']);
  expect(checks).toBe(2);
  expect(refusals.check('stranger', check(true))).toBe('tooOften');
  nowMs += 2 * SECOND_MS;
  expect(refusals.check('stranger', check(true))).toBe('admitted');
});

it('counts no admitted request, and each sender by itself', () => {
  const refusals = limit();
  for (let request = 0; request < 5; request += 1)
    expect(refusals.check('member', check(true))).toBe('admitted');
  expect([1, 2, 3].map(() => refusals.count('stranger'))).toEqual([true, true, false]);
  expect(refusals.check('member', check(false))).toBe('refused');
});

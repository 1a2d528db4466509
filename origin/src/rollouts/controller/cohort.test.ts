import { rankOf } from '@sitecast/shared/fleet';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { freeze, NO_DEVICE } from './cohort.ts';
import { GatewayLiveness } from './cohort-tracker.ts';

const ROLLOUT = '00112233445566aa';
const NOW_MS = Date.parse('2030-01-01T00:00:00Z');
const idsOf = (count: number) => Array.from({ length: count }, (_, at) => `device-${at}`);

describe('the cohort of a stage', () => {
  it.each([
    [500, 8, 1],
    [100, 8, 1],
    [1000, 10, 1],
    [1000, 11, 2],
    [5000, 8, 4],
    [9999, 10_000, 9999],
    [0, 8, 0],
    [10_000, 8, 8],
    [1, 0, 0],
  ])('of %i basis points among %i is %i', (basisPoints, count, expected) => {
    const ids = idsOf(count);
    const { cohort, members } = freeze(ROLLOUT, ids, basisPoints, { below: NO_DEVICE }, NOW_MS);
    expect(members).toHaveLength(expected);
    const { below } = cohort;
    expect(ids.filter(id => below === null || rankOf(ROLLOUT, id) < below).sort()).toEqual(members.sort());
  });

  it('includes named canaries, counts them, and never shrinks, however the fleet changes', () => {
    const size = fc.integer({ min: 1, max: 60 });
    const share = fc.integer({ min: 0, max: 9999 });
    const holds = fc.property(size, size, share, share, fc.nat(5), (one, other, first, second, chosen) => {
      const canaries = idsOf(one).slice(0, chosen);
      const begin = freeze(ROLLOUT, idsOf(one), first, { below: NO_DEVICE, canaries }, NOW_MS);
      const next = freeze(ROLLOUT, idsOf(other), second, begin.cohort, NOW_MS + 1);
      const isIn = (id: string, { cohort }: typeof begin) =>
        cohort.below === null || canaries.includes(id) || rankOf(ROLLOUT, id) < cohort.below;
      expect(idsOf(one).filter(id => isIn(id, begin))).toHaveLength(
        Math.max(Math.ceil((first * one) / 10_000), canaries.length),
      );
      expect(next.members.sort()).toEqual(
        idsOf(other)
          .filter(id => isIn(id, next))
          .sort(),
      );
      expect((next.cohort.below ?? '') >= (begin.cohort.below ?? '')).toBe(true);
      expect(next.members.length).toBeGreaterThanOrEqual(Math.ceil((second * other) / 10_000));
    });
    fc.assert(holds);
  });

  it('includes all devices in the last stage, also those that enrol later', () => {
    expect(
      freeze(ROLLOUT, idsOf(3), 10_000, { below: NO_DEVICE, canaries: ['device-1'] }, NOW_MS).cohort,
    ).toEqual({
      below: null,
    });
  });
});

describe('a gateway', () => {
  it('has delivered reports of other devices, in whatever order the reports came', () => {
    const liveness = new GatewayLiveness();
    liveness.note('a', 'g', 10);
    expect(liveness.broughtOthersAfter('a', 'g', 0)).toBe(false);
    liveness.note('b', 'g', 5);
    expect(liveness.broughtOthersAfter('a', 'g', 4)).toBe(true);
    expect(liveness.broughtOthersAfter('a', 'g', 5)).toBe(false);
    expect(liveness.broughtOthersAfter('b', 'g', 9)).toBe(true);
    liveness.note('c', 'g', 20);
    expect(liveness.broughtOthersAfter('c', 'g', 9)).toBe(true);
    expect(liveness.broughtOthersAfter('a', undefined, 0)).toBe(false);
  });
});

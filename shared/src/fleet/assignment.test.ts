import { expect, it } from 'vitest';
import { supersedes } from './assignment.ts';
import { assignmentFor } from './testing/index.ts';

it('is superseded by the one with the higher serial; with the same, by the later one', () => {
  const held = assignmentFor('a', { serial: 2, issuedAt: '2030-01-02T00:00:00Z' });
  const supersedesHeld = (serial: number, issuedAt: string) =>
    supersedes(assignmentFor('a', { serial, issuedAt }), held);
  expect(supersedesHeld(3, '2030-01-01T00:00:00Z')).toBe(true);
  expect(supersedesHeld(1, '2030-01-03T00:00:00Z')).toBe(false);
  // The origin was restored from a backup that lacks the second change, and has made another one since.
  expect(supersedesHeld(2, '2030-01-03T00:00:00Z')).toBe(true);
  expect(supersedesHeld(2, '2030-01-02T00:00:00Z')).toBe(false);
  expect(supersedesHeld(2, '2030-01-01T00:00:00Z')).toBe(false);
});

import { expect, it } from 'vitest';
import { placeOf } from './rollback-progress.ts';

const release = { counter: 3, version: '3.0.0', manifestSha256: '' };

it.each([
  ['runs it', 'succeeded', 'completed', 3, 3, 'left'],
  ['waits for its turn to go back', 'waiting', 'waiting', 3, 2, 'left'],
  ['waits, and never got it', 'waiting', 'waiting', 2, 3, undefined],
  ['begins', 'pending', 'checking', 3, 2, 'left'],
  ['was fetching it: it leaves it alone', 'running', 'downloading', 2, 3, undefined],
  ['is about to boot into it', 'running', 'rebooting', 2, 3, 'left'],
  ['fetches the release before', 'running', 'downloading', 3, 2, 'left'],
  ['is back', 'returned', 'rolledBack', 2, 2, 'returned'],
  ['can not go back', 'blocked', 'blocked', 3, 3, 'stuck'],
  ['could not install it', 'blocked', 'blocked', 2, 3, undefined],
  ['failed, and is about to fall back', 'failed', 'failed', 3, 3, 'left'],
  ['failed, and fell back by itself', 'failed', 'rolledBack', 2, 3, undefined],
  ['failed on the way back', 'failed', 'failed', 3, 2, 'stuck'],
  ['fell back to it from the release before', 'failed', 'rolledBack', 3, 2, 'stuck'],
  ['is revoked', 'decommissioned', 'completed', 3, 3, undefined],
] as const)('of one that %s', (_device, status, state, booted, about, expected) => {
  expect(placeOf({ release }, { status, state, booted, about })).toBe(expected);
});

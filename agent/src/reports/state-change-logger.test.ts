import { expect, it } from 'vitest';
import { ROLLBACK_ORDERED } from '../state/agent-state.ts';
import { StateChangeLogger } from './state-change-logger.ts';

it('names the target of an ordered rollback, and the failed release of a fall-back', () => {
  const told: string[] = [];
  const stateChanges = new StateChangeLogger((_level, message) => void told.push(message));
  const release = { counter: 1, version: '1.0.0' };
  stateChanges.step('rolledBack', {
    release,
    reason: { code: ROLLBACK_ORDERED, message: 'the rollout was rolled back' },
  });
  stateChanges.step('rolledBack', { release, reason: { code: 'healthFailed', message: 'no picture' } });
  expect(told).toEqual([
    'rolled back to 1.0.0: the rollout was rolled back',
    'rolled back from 1.0.0: no picture',
  ]);
});

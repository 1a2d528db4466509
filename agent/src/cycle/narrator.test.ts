import { expect, it } from 'vitest';
import { ORDERED } from '../decision/memory.ts';
import { Narrator } from './narrator.ts';

it('tells an ordered way back by where it led, and a fall back by what it left', () => {
  const told: string[] = [];
  const narrator = new Narrator((_level, message) => void told.push(message));
  const release = { counter: 1, version: '1.0.0' };
  narrator.step('rolledBack', { release, reason: { code: ORDERED, message: 'the rollout was rolled back' } });
  narrator.step('rolledBack', { release, reason: { code: 'healthFailed', message: 'no picture' } });
  expect(told).toEqual([
    'rolled back to 1.0.0: the rollout was rolled back',
    'rolled back from 1.0.0: no picture',
  ]);
});

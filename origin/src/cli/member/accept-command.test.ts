import { expect, it } from 'vitest';
import { lifeOf } from './accept-command.ts';

const NOW = '2030-01-01T12:00:00.000Z';
const bearer = { id: '12D3', kind: 'device' as const };

it.each([
  ['is heard now', 'heard', '2030-01-01T08:00:00.000Z', 'it is being heard now'],
  ['was heard a moment ago', 'silent', '2030-01-01T11:56:00.000Z', 'it was heard within the last 5 minutes'],
  [
    'was heard at an hour to come',
    'untold',
    '2030-01-01T12:30:00.000Z',
    'it was heard within the last 5 minutes',
  ],
  ['was heard this morning', 'silent', '2030-01-01T11:55:00.000Z', undefined],
  ['an origin of 0.1.0 tells of', undefined, '2030-01-01T08:00:00.000Z', undefined],
] as const)(
  'asks before it revokes an active bearer of the name: one that %s',
  (_who, presence, lastHeardAt, life) => {
    expect(lifeOf({ ...bearer, presence, lastHeardAt }, Date.parse(NOW))).toBe(life);
  },
);

import { expect, it } from 'vitest';
import { nearestOf } from './match.ts';

it.each([
  ['nroth', ['south', 'north', 'north-2'], 'north'],
  ['North', ['north'], 'north'],
  ['camrea', ['camera', 'cinema'], 'camera'],
  ['nort', ['north', 'south'], 'north'],
  ['noorth', ['north'], 'north'],
  ['west', ['north', 'south'], undefined],
  ['x', ['y1', 'north'], undefined],
  ['north', [], undefined],
])('the nearest name to %s among %j is %s', (name, known, meant) => {
  expect(nearestOf(name, known)).toBe(meant);
});

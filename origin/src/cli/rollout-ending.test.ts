import { expect, it } from 'vitest';
import { endingOf } from './rollout-ending.ts';
import { describeNext } from './rollout-next.ts';

const figures = { well: 0, running: 0, blocked: 0, returned: 3, waiting: 6, pending: 1 };
const sentBack = (back?: { left: number; lateLeft: number; stuck: number; returned: number }) =>
  ({ id: '1f0c9a5be6d27788', state: 'rollingBack', figures, acts: [], ...(back && { back }) }) as never;

it('watches a rollback until nobody is left who can go back', () => {
  const waiting = sentBack({ left: 7, lateLeft: 3, stuck: 0, returned: 3 });
  expect(endingOf(waiting)).toBeUndefined();
  expect(describeNext(waiting)[0]).toContain('next: 7 devices still to go back, 3 of them latecomers; ');
  const over = sentBack({ left: 0, lateLeft: 0, stuck: 2, returned: 8 });
  expect(endingOf(over)).toMatchObject({
    isGood: false,
    text: expect.stringContaining('8 of its devices went back; 2 could not'),
  });
  expect(describeNext(over)).toEqual([
    expect.stringContaining('no device known that is still to go back'),
    expect.stringContaining('2 devices could not: '),
  ]);
});

it('takes what an origin of 0.1.0 tells', () => {
  expect(endingOf(sentBack())).toMatchObject({ text: expect.stringContaining('3 of its devices went back') });
});

import { SitecastError } from '@sitecast/shared/errors';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { errorFields, RecurringErrors } from './log.ts';
import { Readiness } from './readiness.ts';
import { testLog } from './testing/origin.ts';
import { temporaryOrigin } from './testing/setup.ts';

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
beforeEach(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
});
afterEach(() => origin.remove());

it('logs each change of its readiness once, and reports disk and database to operators', async () => {
  const logged: string[] = [];
  const room = { freeBytes: async () => free, reserveBytes: 2 ** 20, path: '/data' };
  const state: { trouble: SitecastError | undefined; damage: undefined; mendedCount: number } = {
    trouble: undefined,
    damage: undefined,
    mendedCount: 0,
  };
  let free = 2 ** 30;
  let act = () => {};
  const after = (_ms: number, next: () => void) => {
    act = next;
    return () => {};
  };
  const { repository, clock } = origin;
  const readiness = new Readiness({ repository, state, room, now: clock.now, after, log: testLog(logged) });
  const pass = async (): Promise<void> => {
    act();
    await readiness.check();
  };
  readiness.start();
  await pass();
  expect([logged, await readiness.warnings()]).toEqual([[], []]);
  free = 0;
  await pass();
  await pass();
  expect(logged).toEqual([expect.stringMatching(/^error not ready: the disk of the origin is full/)]);
  expect(await readiness.warnings()).toMatchObject([{ code: 'SITECAST_NO_SPACE' }]);
  state.trouble = new SitecastError('unreachable', 'SITECAST_STATE_UNWRITABLE', 'it fails', {
    hint: 'Look.',
  });
  await pass();
  expect(await readiness.warnings()).toMatchObject([{ message: 'it fails. Look.' }]);
  free = 2 ** 30;
  state.trouble = undefined;
  await pass();
  expect(logged.slice(1)).toEqual(['error not ready: it fails', 'info ready again']);
  await readiness.stop();
});

it('logs an expected failure without its stack, and a repeated failure once', () => {
  const cause = Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
  const full = new SitecastError('noSpace', 'SITECAST_NO_SPACE', 'full', { hint: 'Make room.', cause });
  expect(errorFields(full)).toEqual({
    code: 'SITECAST_NO_SPACE',
    detail: 'full',
    hint: 'Make room.',
    cause: 'EIO: i/o error',
  });
  const bug = new TypeError('x is undefined');
  expect(errorFields(bug)).toEqual({ err: bug });
  const logged: string[] = [];
  const errors = new RecurringErrors(testLog(logged));
  for (const error of [full, full, bug, full]) errors.failed('a', error, error.message);
  errors.failed('b', full, 'b');
  errors.succeeded('a');
  errors.failed('a', full, 'again');
  expect(logged).toEqual(['error full', 'error x is undefined', 'error full', 'error b', 'error again']);
});

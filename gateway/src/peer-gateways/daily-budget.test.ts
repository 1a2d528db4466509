import { afterAll, expect, it } from 'vitest';
import { memoryLog, openTestDatabase, removeTemporaryDirectories } from '../testing/harness.ts';
import { DailyBudget } from './daily-budget.ts';

afterAll(removeTemporaryDirectories);

const DAY_MS = 86_400_000;

it('leaves something for the next owner, whatever others have taken, and starts again each day', async () => {
  const database = await openTestDatabase();
  let nowMs = Date.parse('2026-03-01T23:00:00Z');
  const settings = {
    maxBytes: 100,
    maxTotalBytes: 400,
    records: database.records('budget'),
    now: () => nowMs,
    log: memoryLog(),
  };
  const budget = await DailyBudget.open(settings);
  const takenBy = (owner: string): number => {
    let taken = 0;
    while (budget.take(owner, 1) !== undefined) taken += 1;
    return taken;
  };
  expect(['a', 'b', 'c', 'd', 'e', 'a'].map(takenBy)).toEqual([100, 100, 100, 50, 25, 0]);
  const ofBefore = budget.take('f', 10);
  ofBefore?.(0);
  await budget.save();
  const again = await DailyBudget.open(settings);
  const has = (found: unknown): boolean => found !== undefined;
  expect([again.take('a', 1), again.take('g', 12), again.take('g', 1)].map(has)).toEqual([
    false,
    true,
    false,
  ]);
  nowMs += DAY_MS;
  // Bytes that were taken yesterday are returned to yesterday's budget.
  ofBefore?.(0);
  expect([budget.take('a', 100), budget.take('a', 1)].map(has)).toEqual([true, false]);
  expect(has((await DailyBudget.open(settings)).take('b', 100))).toBe(true);
  await database.close();
});

it('keeps counting where the counts can not be saved, says so once, and saves them as soon as that is possible', async () => {
  const database = await openTestDatabase();
  const log = memoryLog();
  const records = database.records('budget');
  let isFull = true;
  const settings = {
    maxBytes: 100,
    maxTotalBytes: 400,
    records: {
      ...records,
      get: (key: string) => records.get(key),
      commit: async (writes: Parameters<typeof records.commit>[0]) => {
        if (isFull) throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
        await records.commit(writes);
      },
    },
    now: () => Date.parse('2026-03-01T23:00:00Z'),
    log,
  };
  const budget = await DailyBudget.open(settings);
  budget.take('a', 100);
  await budget.save();
  await budget.save();
  expect(log.lines.map(({ level }) => level)).toEqual(['warn']);
  isFull = false;
  // Nothing was taken since.
  await budget.save();
  expect((await DailyBudget.open(settings)).take('a', 1)).toBeUndefined();
  await database.close();
});

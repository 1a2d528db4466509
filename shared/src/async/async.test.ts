import { describe, expect, it } from 'vitest';
import { Backoff, forEachBounded, repeat, sleep } from './index.ts';

describe('sleep', () => {
  it('returns whether the time passed or the signal fired first', async () => {
    expect(await sleep(1)).toBe(true);
    const stop = new AbortController();
    const sleeping = sleep(60_000, stop.signal);
    stop.abort();
    expect(await sleeping).toBe(false);
    expect(await sleep(60_000, stop.signal)).toBe(false);
  });

  it('waits for the signal where the time is longer than a timer allows', async () => {
    const stop = new AbortController();
    const sleeping = sleep(Number.POSITIVE_INFINITY, stop.signal);
    expect(await Promise.race([sleeping, sleep(20)])).toBe(true);
    stop.abort();
    expect(await sleeping).toBe(false);
  });
});

describe('a backoff', () => {
  it('doubles with each failure up to its maximum, is shortened at random by up to a half, and starts over after a success', () => {
    const backoff = new Backoff(100, 1000);
    for (const fullMs of [100, 200, 400, 800, 1000, 1000]) {
      const waitMs = backoff.next();
      expect(waitMs).toBeLessThanOrEqual(fullMs);
      expect(waitMs).toBeGreaterThanOrEqual(fullMs / 2);
    }
    backoff.reset();
    expect(backoff.next()).toBeLessThanOrEqual(100);
  });
});

describe('bounded concurrency', () => {
  it('runs at most `limit` calls at a time and takes an item only when it is needed', async () => {
    let running = 0;
    let most = 0;
    let taken = 0;
    function* items(): Generator<number> {
      for (; taken < 20; taken += 1) yield taken;
    }
    await forEachBounded(items(), 3, async () => {
      running += 1;
      most = Math.max(most, running);
      expect(taken).toBeLessThanOrEqual(20);
      await sleep(1);
      running -= 1;
    });
    expect({ most, taken }).toEqual({ most: 3, taken: 20 });
  });

  it('takes no further item after a failure, and throws it once the running calls have ended', async () => {
    const begun: number[] = [];
    const ended: number[] = [];
    const all = forEachBounded([0, 1, 2, 3, 4], 2, async item => {
      begun.push(item);
      if (item === 0) throw new Error('no');
      await sleep(10);
      ended.push(item);
    });
    await expect(all).rejects.toThrow('no');
    expect({ begun, ended }).toEqual({ begun: [0, 1], ended: [1] });
  });
});

describe('repeat', () => {
  it('runs again after each run, and stops once a running call has ended', async () => {
    const due: (() => void)[] = [];
    let cancelled = 0;
    const after = (_delayMs: number, act: () => void) => {
      due.push(act);
      return () => {
        cancelled += 1;
      };
    };
    let runs = 0;
    let end = (): void => {};
    const act = (): Promise<void> => {
      runs += 1;
      return new Promise(resolve => {
        end = resolve;
      });
    };
    const stop = repeat(act, { everyMs: 1000, after });
    expect(runs).toBe(0);
    due[0]?.();
    expect({ runs, set: due.length }).toEqual({ runs: 1, set: 1 });
    end();
    await sleep(0);
    expect(due.length).toBe(2);
    due[1]?.();
    let isStopped = false;
    const stopping = stop().then(() => {
      isStopped = true;
    });
    await sleep(0);
    expect({ runs, cancelled, isStopped }).toEqual({ runs: 2, cancelled: 1, isStopped: false });
    end();
    await stopping;
    expect({ set: due.length, isStopped }).toEqual({ set: 2, isStopped: true });
  });
});

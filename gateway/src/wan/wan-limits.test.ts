import { SitecastError } from '@sitecast/shared/errors';
import { expect, it } from 'vitest';
import { parseWanRate } from '../settings.ts';
import { MAX_RETRY_AFTER_S, MIN_WAN_BYTES_PER_S, WanLimits, type WanSettings } from './wan-limits.ts';

/** Limits on a clock that jumps to the end of each wait. */
function limitsAt(settings: WanSettings, begin = new Date(2030, 0, 7, 12, 0), sharers = 1) {
  let clockMs = 0;
  const limits = new WanLimits(settings, {
    sharers: () => sharers,
    now: () => begin.getTime() + clockMs,
    clock: () => clockMs,
    wait: async ms => {
      clockMs += ms;
    },
  });
  return { limits, clock: () => clockMs, pass: (ms: number) => (clockMs += ms) };
}

const MONDAY_NOON = new Date(2030, 0, 7, 12, 0);
const MONDAY_EVENING = new Date(2030, 0, 7, 19, 0);
const quietHours = 'Mon-Fri 08:00-18:00';

it('lets exactly so many bytes per second arrive, in any pieces, and saves none up', async () => {
  const { limits, clock, pass } = limitsAt({ wanRate: 1_000_000 });
  for (let at = 0; at < 100; at += 1) await limits.took(65_536 - at);
  const bytes = 100 * 65_536 - 4950;
  expect(clock()).toBeCloseTo(bytes / 1000, 6);
  pass(60_000);
  const beginMs = clock();
  await limits.took(500_000);
  expect(clock() - beginMs).toBeCloseTo(500, 6);
});

it('gives each gateway of the site its share of the rate', async () => {
  const { limits, clock } = limitsAt({ wanRate: 1_000_000 }, MONDAY_NOON, 4);
  await limits.took(1_000_000);
  expect(clock()).toBeCloseTo(4000, 6);
});

it('sends first, with half of the rate at most, and chunks wait for it', async () => {
  const { limits, clock } = limitsAt({ wanRate: 1_000_000 });
  await limits.untilSent();
  limits.sent(500_000);
  expect(clock()).toBe(0);
  // The chunk's own half second, and that of the sent bytes.
  await limits.took(500_000);
  expect(clock()).toBeCloseTo(1000, 6);
  await limits.untilSent();
  expect(clock()).toBeCloseTo(1000, 6);
  limits.sent(1_000_000);
  limits.sent(500_000);
  await limits.untilSent();
  expect(clock()).toBeCloseTo(4000, 6);
  expect([limits.bytesAtOnce(10 ** 9), limits.bytesAtOnce(1000)]).toEqual([2_000_000, 1000]);
});

it('counts target files, and makes long ones wait', async () => {
  const { limits, clock } = limitsAt({ wanRate: 1_000_000 });
  await limits.tookOfFile(65_536, 65_536);
  expect(clock()).toBe(0);
  await limits.tookOfFile(34_464, 100_000);
  expect(clock()).toBeCloseTo(100, 6);
  await limits.tookOfFile(60_000, 60_000);
  // A chunk waits for the short file.
  await limits.took(40_000);
  expect(clock()).toBeCloseTo(200, 6);
  expect(limits.longestMs(1_000_000)).toBe(2000);
  expect(limitsAt({}).limits.longestMs(1_000_000)).toBe(0);
});

it('never holds up metadata, makes chunks wait for it, and leaves them half of the rate in a flood of it', async () => {
  const { limits, clock, pass } = limitsAt({ wanRate: 1_000_000 });
  limits.passed(300_000);
  expect(clock()).toBe(0);
  await limits.took(200_000);
  expect(clock()).toBeCloseTo(500, 6);
  // An hour long, twice the rate.
  for (let second = 0; second < 3600; second += 1) {
    for (let piece = 0; piece < 20; piece += 1) limits.passed(100_000);
    pass(1000);
  }
  const beginMs = clock();
  await limits.took(1_000_000);
  // Its own second, and what metadata was still ahead.
  expect(clock() - beginMs).toBeLessThan(32_000);
  limits.passed(1_000_000_000);
  expect(limitsAt({}).limits.passed(1e9)).toBeUndefined();
});

/** Limits on a clock that goes on to the end of the next wait once nothing else happens. */
function limitsInTime(wanRate: number) {
  let clockMs = 0;
  const waiting: { atMs: number; end: () => void }[] = [];
  const wait = (ms: number) =>
    new Promise<void>(end => {
      waiting.push({ atMs: clockMs + ms, end });
      waiting.sort((one, other) => one.atMs - other.atMs);
    });
  const limits = new WanLimits({ wanRate }, { now: () => clockMs, clock: () => clockMs, wait });
  const runUntil = async (endMs: number) => {
    for (;;) {
      await new Promise(setImmediate);
      const next = waiting.shift();
      if (next === undefined || next.atMs > endMs) return;
      clockMs = next.atMs;
      next.end();
    }
  };
  return { limits, wait, runUntil, clock: () => clockMs };
}

it.each([MIN_WAN_BYTES_PER_S, 125_000, 1_250_000])(
  'lets no neighbour, LAN host or relay hold up chunks for longer than 30 seconds, or reports for a minute (%i bytes a second)',
  async wanRate => {
    const { limits, wait, runUntil, clock } = limitsInTime(wanRate);
    const endMs = 1_200_000;
    const signalOf = () => new AbortController().signal;
    const again = async (act: (at: number) => Promise<unknown>) => {
      for (let at = 0; clock() < endMs; at += 1) await act(at);
    };
    const timed = async (act: () => Promise<unknown>) => {
      const beginMs = clock();
      await act();
      return clock() - beginMs;
    };
    const chunkMs: number[] = [];
    const reportMs: number[] = [];
    const MIB = 2 ** 20;
    const others = Array.from({ length: 300 }, (_, id) =>
      again(async () => {
        await limits.forOthers(2 * MIB, `relay ${id}`, signalOf());
        limits.passed(MIB);
      }),
    );
    const uploads = Array.from({ length: 8 }, (_, id) =>
      again(async () => {
        await limits.forOthers(131_072, `upload ${id}`, signalOf());
        limits.gaveOthers(MIB - 131_072);
      }),
    );
    const all = [
      ...others,
      ...uploads,
      // Every listed file, each just so short that it need not wait.
      ...Array.from({ length: 4 }, () =>
        again(async at => {
          const sumBytes = 16_384 * (1 + (at % 4));
          await limits.tookOfFile(16_384, sumBytes, signalOf());
          await wait(1);
        }),
      ),
      again(async () => {
        limits.passed(64 * MIB);
        await wait(1000);
      }),
      // Enrolments and the like.
      again(async () => {
        limits.sent(20_000);
        await wait(1000);
      }),
      again(async () => {
        reportMs.push(await timed(() => limits.untilSent(signalOf())));
        limits.sent(limits.bytesAtOnce(262_144));
        await wait(1);
      }),
      again(async () => void chunkMs.push(await timed(() => limits.took(65_536, signalOf())))),
    ];
    await runUntil(endMs);
    expect(Math.max(...chunkMs)).toBeLessThanOrEqual(30_000);
    // A quarter of the rate, for files have as much.
    expect(chunkMs.length * 65_536).toBeGreaterThan(((endMs / 1000) * wanRate) / 5);
    expect(Math.max(...reportMs)).toBeLessThan(60_000);
    expect(reportMs.length).toBeGreaterThan(15);
    expect(all.length).toBeGreaterThan(300);
  },
);

it('gives other sites what this one leaves of a quarter of the rate, in turns, and its reports never wait for them', async () => {
  const { limits, runUntil, clock } = limitsInTime(100_000);
  const { signal } = new AbortController();
  const done: string[] = [];
  const ask = (owner: string, lengthBytes: number) =>
    limits
      .forOthers(lengthBytes, owner, signal)
      .then(() => void done.push(`${owner} ${Math.round(clock() / 1000)}`));
  const all = [ask('greedy', 500_000), ask('greedy', 500_000), ask('modest', 50_000)];
  await runUntil(60_000);
  await Promise.all(all);
  // 50 kB of three that take turns are 150 kB, at 25 kB a second.
  expect(done).toEqual([expect.stringMatching(/^modest [3-6]$/), 'greedy 42', 'greedy 42']);
  await limits.untilSent();
  expect(clock()).toBeLessThan(43_000);
});

it('gives a new set to other sites as soon as it has fetched it itself, and nothing more in a flood of metadata', async () => {
  const { limits, runUntil, clock } = limitsInTime(MIN_WAN_BYTES_PER_S);
  limits.passed(300_000);
  const beginsMs: number[] = [];
  const ask = () =>
    limits.forOthers(4096, 'neighbour', new AbortController().signal).then(() => void beginsMs.push(clock()));
  const first = ask();
  await runUntil(1000);
  await first;
  limits.passed(10_000_000);
  const second = ask();
  await runUntil(60_000);
  await second;
  expect(beginsMs).toEqual([0, expect.closeTo(20_000, 0)]);
});

it('lets nothing wait for what was to go out for other sites, and did not', async () => {
  const { limits, clock } = limitsAt({ wanRate: 1_000_000 });
  limits.passed(2_000_000);
  await limits.forOthers(131_072, 'neighbour', new AbortController().signal);
  limits.gaveOthers(-131_072);
  await limits.took(1000);
  expect(clock()).toBeCloseTo(2001, 6);
  const left = new AbortController();
  limits.passed(2_000_000);
  const onPassed = () => left.abort(new Error('left'));
  await expect(limits.forOthers(131_072, 'neighbour', left.signal, onPassed)).rejects.toThrow('left');
  await limits.took(1000);
  expect(clock()).toBeCloseTo(4002, 6);
});

it('delays nothing where no rate was set', async () => {
  const { limits, clock } = limitsAt({ quietHours }, MONDAY_EVENING);
  await limits.took(1e9);
  limits.sent(1e9);
  await limits.untilSent();
  expect(limits.bytesAtOnce(1e9)).toBe(1e9);
  expect(clock()).toBe(0);
});

it('fetches nothing in the quiet hours, unless devices have a rate; and nothing ahead', async () => {
  const quiet = limitsAt({ quietHours }, MONDAY_NOON).limits;
  expect(() => quiet.demandOpen()).toThrow(expect.objectContaining({ code: 'SITECAST_QUIET_HOURS' }));
  expect(quiet.mayPrefetch).toBe(false);

  const slow = limitsAt({ quietHours, quietRate: 100_000, wanRate: 1_000_000 }, MONDAY_NOON);
  slow.limits.demandOpen();
  expect(slow.limits.mayPrefetch).toBe(false);
  await slow.limits.took(100_000);
  expect(slow.clock()).toBeCloseTo(1000, 6);

  const open = limitsAt({ quietHours, wanRate: 1_000_000 }, MONDAY_EVENING).limits;
  open.demandOpen();
  expect(open.mayPrefetch).toBe(true);
});

it('returns how long the quiet hours still last, an hour at most', () => {
  const retryAfterS = (begin: Date, hours = quietHours): unknown => {
    try {
      limitsAt({ quietHours: hours }, begin).limits.demandOpen();
      return 'open';
    } catch (error) {
      return error instanceof SitecastError ? error.data.retryAfterS : error;
    }
  };
  expect(retryAfterS(new Date(2030, 0, 7, 17, 59, 30))).toBe(30);
  expect(retryAfterS(new Date(2030, 0, 7, 17, 0))).toBe(3600);
  expect(retryAfterS(new Date(2030, 0, 7, 17, 0, 1))).toBe(3599);
  expect(retryAfterS(MONDAY_NOON)).toBe(MAX_RETRY_AFTER_S);
  expect(retryAfterS(MONDAY_NOON, '00:00-24:00')).toBe(MAX_RETRY_AFTER_S);
});

it('begins and ends the quiet hours by the clock', () => {
  const { limits, pass } = limitsAt({ quietHours }, new Date(2030, 0, 7, 7, 59));
  expect(limits.isQuiet).toBe(false);
  pass(60_000);
  expect(limits.isQuiet).toBe(true);
  pass(10 * 3_600_000);
  expect(limits.isQuiet).toBe(false);
});

it('fetches fewer chunks at one time where less of the rate is free', () => {
  const atOnce = (settings: WanSettings) => limitsAt(settings).limits.fetchesAtOnce(16);
  expect(atOnce({})).toBe(16);
  expect(atOnce({ wanRate: 2_500_000 })).toBe(16);
  expect(atOnce({ wanRate: 131_072 })).toBe(4);
  expect(atOnce({ wanRate: 2_500_000, quietRate: MIN_WAN_BYTES_PER_S })).toBe(1);
});

it('parses rates in bits, down to the least', () => {
  expect(parseWanRate('10Mbit')).toBe(1_250_000);
  expect(parseWanRate('1.5Mbit/s')).toBe(187_500);
  expect(parseWanRate('256kbit')).toBe(MIN_WAN_BYTES_PER_S);
  for (const wrong of ['255kbit', '10', '10MB', '-1Mbit', '0Mbit', 'fast'])
    expect(() => parseWanRate(wrong)).toThrow('expected a rate');
});

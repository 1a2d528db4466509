import { join } from 'node:path';
import { openLevelStore } from '@sitecast/shared/key-value';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from '../adapters/disk/testing/test-disk.ts';
import { Tables } from '../adapters/embedded/tables.ts';
import { FleetHarness } from '../testing/fleet-harness.ts';
import { temporaryDirectory, type TestClock } from '../testing/setup.ts';

const MINUTE_MS = 60_000;

/** Timers of the test's clock, which jumps from one timer to the next. */
class Timers {
  readonly #set: { atMs: number; act: () => void }[] = [];
  clock: TestClock | undefined;

  readonly after = (delayMs: number, act: () => void): (() => void) => {
    const timer = { atMs: (this.clock?.nowMs ?? 0) + delayMs, act };
    this.#set.push(timer);
    return () => {
      const at = this.#set.indexOf(timer);
      if (at >= 0) this.#set.splice(at, 1);
    };
  };

  pass(clock: TestClock, ms: number): void {
    const endMs = clock.nowMs + ms;
    for (;;) {
      const due = this.#set.filter(({ atMs }) => atMs <= endMs);
      const [next] = due.sort((one, other) => one.atMs - other.atMs);
      if (!next) break;
      this.#set.splice(this.#set.indexOf(next), 1);
      clock.nowMs = Math.max(clock.nowMs, next.atMs);
      next.act();
    }
    clock.nowMs = endMs;
  }
}

let harness: FleetHarness;
let timers: Timers;
let close: () => Promise<void>;

beforeEach(async () => {
  const { path, remove } = temporaryDirectory();
  const owner = { name: 'origin', dataDirectory: path, cure: '' };
  const database = await openLevelStore({
    path: join(path, 'state'),
    witnessPath: join(path, 'witness'),
    owner,
  });
  timers = new Timers();
  harness = await FleetHarness.open(at => ({ ...testDisk(at), after: timers.after }), new Tables(database));
  timers.clock = harness.clock;
  // After the restart, the minute's timer runs by this clock.
  await harness.restart();
  close = async () => {
    await harness.close();
    await database.close();
    await remove();
  };
});
afterEach(() => close());

const status = (id: unknown) => harness.call('GET', `/api/v1/rollouts/${String(id)}`);

it('is noticed by time alone, within a minute', async () => {
  const gateway = await harness.gateway('north');
  const [silent, other] = [await harness.device('north'), await harness.device('north')];
  const { id } = await harness.startRollout({ silentAfterMs: MINUTE_MS, maxFailuresBasisPoints: 0 });
  const rollout = { id: String(id), attempt: 1 };
  for (const device of [silent, other])
    await device.sendReports([await device.next({ state: 'downloading', rollout })], gateway);
  // Another device is heard through the gateway after the deadline. That alone doesn't lead to a decision.
  harness.clock.nowMs += MINUTE_MS + 1;
  await other.sendReports([await other.next({ state: 'verifying', rollout })], gateway);
  await harness.origin.fleet.intake.idle();
  await harness.origin.rollouts.checkCompletion();
  expect(await status(id)).toMatchObject({ state: 'active', figures: { silent: 0, unreachable: 0 } });

  timers.pass(harness.clock, MINUTE_MS);
  await expect.poll(async () => (await status(id)).state).toBe('paused');
  expect(await status(id)).toMatchObject({
    stop: { why: 'silence', by: 'origin' },
    figures: { silent: 1, running: 2 },
  });
});

import { existsSync, mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { chunkIdOf, compressFrame } from '@sitecast/shared/content';
import { until } from '@sitecast/shared/testing';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { testDisk } from './adapters/disk/testing/test-disk.ts';
import { DiskFiles } from './adapters/disk/disk-files.ts';
import { publishedPath } from './adapters/disk/layout.ts';
import { imageOf } from './testing/operator.ts';
import { testLog } from './testing/origin.ts';
import { randomChunks, temporaryOrigin } from './testing/setup.ts';
import { Upkeep } from './upkeep.ts';

let origin: Awaited<ReturnType<typeof temporaryOrigin>>;
let logged: string[];
let upkeep: Upkeep;
/** The upkeep's pending timer. A call of `act` lets that time pass. */
let due: { delayMs: number; act: () => void } | undefined;

beforeEach(async () => {
  origin = await temporaryOrigin(path => testDisk(path));
  logged = [];
  due = undefined;
  upkeep = new Upkeep({
    repository: origin.repository,
    leadership: { isHeld: true },
    stagingTtlMs: 30 * 86_400_000,
    now: origin.clock.now,
    after: (delayMs, act) => {
      due = { delayMs, act };
      return () => {
        due = undefined;
      };
    },
    log: testLog(logged),
  });
});
afterEach(async () => {
  await upkeep.stop();
  await origin.remove();
});

/** Moves the clock and the upkeep's timer together. */
async function passMinutes(minutes: number): Promise<void> {
  for (let passed = 0; passed < minutes; passed += 1) {
    const waited = due;
    if (!waited) throw new Error('nothing is waited for');
    due = undefined;
    origin.clock.nowMs += waited.delayMs;
    waited.act();
    await until('the next turn', () => due !== undefined);
  }
}

it('renews the timestamp every hour', async () => {
  await upkeep.start();
  expect(origin.repository.versions().timestamp).toBe(1);
  await passMinutes(59);
  expect(origin.repository.versions().timestamp).toBe(1);
  await passMinutes(1);
  expect(origin.repository.versions().timestamp).toBe(2);
  await passMinutes(60);
  expect(origin.repository.versions().timestamp).toBe(3);
});

it('signs everything that is due at the start, before any request is served', async () => {
  origin.clock.passDays(20);
  await upkeep.start();
  expect(origin.repository.versions()).toMatchObject({ timestamp: 2, snapshot: 2, rollouts: 2, deltas: 2 });
});

it('reports what failed, continues, and tries again', async () => {
  const files = new DiskFiles(origin.path);
  await files.move('repository/metadata', 'repository/away');
  origin.clock.passHours(1);
  await upkeep.start();
  expect(logged).toContainEqual('error signing the online roles anew failed');
  await files.move('repository/away', 'repository/metadata');
  await passMinutes(1);
  expect(origin.repository.versions().timestamp).toBeGreaterThan(1);
});

it('warns once a day of what only operators can renew', async () => {
  for (let months = 0; months < 12; months += 1) {
    origin.clock.passDays(28);
    await origin.repository.renew();
  }
  await upkeep.start();
  const warnings = () => logged.filter(line => line.startsWith('warn '));
  expect(warnings()).toEqual([
    expect.stringContaining('root expires at 2031-01-01T00:00:00Z, in 29 days'),
    expect.stringContaining('targets expires at 2031-01-01T00:00:00Z, in 29 days'),
  ]);
  await passMinutes(2);
  expect(warnings()).toHaveLength(2);
  origin.clock.passDays(1);
  await passMinutes(1);
  expect(warnings()).toHaveLength(4);
});

it('deletes uploads that were never published, at the start and every day', async () => {
  const { operator, clock, chunks } = origin;
  await operator.upload(imageOf(...randomChunks(1)));
  clock.passDays(29);
  await upkeep.start();
  expect(await chunks.totals()).toMatchObject({ chunks: 1 });
  clock.passDays(2);
  await passMinutes(1);
  expect(await chunks.totals()).toMatchObject({ chunks: 0 });
});

it('deletes chunks that no index names once the process has run for a day, not before', async () => {
  const [chunk = Buffer.alloc(0)] = randomChunks(1);
  const path = join(origin.path, publishedPath(chunkIdOf(chunk)));
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, compressFrame(chunk));
  const longAgo = new Date(origin.clock.nowMs - 60 * 86_400_000);
  utimesSync(path, longAgo, longAgo);
  await upkeep.start();
  origin.clock.passHours(23);
  await passMinutes(1);
  expect(existsSync(path)).toBe(true);
  origin.clock.passHours(1);
  await passMinutes(1);
  await until('the chunk to be deleted', () => !existsSync(path));
});

it('does nothing more once it is stopped', async () => {
  await upkeep.start();
  await upkeep.stop();
  expect(due).toBeUndefined();
});

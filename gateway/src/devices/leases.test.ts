import { afterAll, afterEach, beforeEach, expect, it } from 'vitest';
import { LEASE_MS } from '@sitecast/shared/api';
import type { RolloutsFile } from '@sitecast/shared/fleet';
import { assignmentFor } from '@sitecast/shared/fleet/testing';
import type { KeyValueStore } from '@sitecast/shared/key-value';
import { openTestDatabase, removeTemporaryDirectories, type TestDatabase } from '../testing/harness.ts';
import { LEASES_CLOSED_KEY, Leases } from './leases.ts';
import { SiteDevices } from './site-devices.ts';

const MINUTE_MS = 60_000;
const ROLLOUT = 'a'.repeat(16);
let database: TestDatabase;
let records: KeyValueStore;
let leases: Leases;
let nowMs: number;
const revoked = new Set<string>();
let movedAway: string | undefined;

beforeEach(async () => {
  nowMs = Date.parse('2030-01-01T00:00:00Z');
  revoked.clear();
  movedAway = undefined;
  database = await openTestDatabase();
  records = database.records('leases');
  const devices = new SiteDevices();
  devices.serve('north');
  for (const id of ['one', 'two', 'three', 'four'])
    devices.note({ ...assignmentFor(id), ...(id === 'one' && { name: 'cam-1' }) });
  leases = new Leases({
    records,
    devices,
    site: async () => 'north',
    assignmentOf: async id => ({ ...assignmentFor(id), ...(id === movedAway && { site: 'south' }) }),
    isRevoked: id => revoked.has(id),
    rolloutsOf: () => rollouts,
    now: () => nowMs,
  });
});
afterEach(() => database.close());
afterAll(removeTemporaryDirectories);

const rollouts: RolloutsFile = {
  format: 'sitecast-rollouts-1',
  product: 'camera',
  rollouts: [
    {
      id: ROLLOUT,
      release: { counter: 1, version: '1', manifestSha256: 'b'.repeat(64) },
      state: 'active',
      match: {},
      cohort: { below: null },
      offlineForMs: 0,
      maxDownBasisPoints: 2500,
      attempt: 1,
      createdAt: '2029-01-01T00:00:00Z',
    },
  ],
  revoked: [],
};

const isGranted = async (id: string, action: 'take' | 'renew' = 'take') =>
  (await leases.handle(id, ROLLOUT, action)).granted;

it('lets one of four devices be down, until it returns the lease or the lease expires', async () => {
  expect(await isGranted('one')).toBe(true);
  expect(await isGranted('two')).toBe(false);
  await leases.handle('one', ROLLOUT, 'return');
  expect(await isGranted('two')).toBe(true);
  expect(await isGranted('three')).toBe(false);
  nowMs += 16 * MINUTE_MS;
  expect(await isGranted('three')).toBe(true);
});

it('lets no device block the others for ever, however often it renews, returns and takes leases', async () => {
  let othersTurns = 0;
  for (let at = 0; at < 5 * 24 * 12; at += 1) {
    nowMs += 5 * MINUTE_MS;
    if (at % 7 === 0) await leases.handle('one', ROLLOUT, 'return');
    await leases.handle('one', ROLLOUT, at % 2 === 0 ? 'take' : 'renew');
    if (await isGranted('two')) {
      othersTurns += 1;
      await leases.handle('two', ROLLOUT, 'return');
    }
  }
  // Of five days, the others get about half.
  expect(othersTurns).toBeGreaterThan(340);
});

it('names the devices with a lease, and the details of each lease', async () => {
  await leases.handle('one', ROLLOUT, 'take');
  const untilMs = nowMs + 15 * MINUTE_MS;
  expect(await leases.handle('two', ROLLOUT, 'take')).toEqual({
    granted: false,
    retryAfterMs: 5000,
    heldBy: [{ id: 'one', name: 'cam-1', untilMs }],
  });
  expect(await leases.held()).toEqual([
    { id: 'one', product: 'camera', rollout: ROLLOUT, untilMs, sinceMs: nowMs },
  ]);
});

it('frees the lease of a device that was revoked or moved to another site', async () => {
  expect(await isGranted('one')).toBe(true);
  expect(await isGranted('two')).toBe(false);
  revoked.add('one');
  expect(await leases.held()).toEqual([]);
  expect(await isGranted('two')).toBe(true);
  expect(await isGranted('three')).toBe(false);
  movedAway = 'two';
  expect(await isGranted('three')).toBe(true);
});

it('soon allows a device a new lease that ended in time', async () => {
  for (let update = 0; update < 20; update += 1) {
    expect(await isGranted('one')).toBe(true);
    nowMs += 10 * MINUTE_MS;
    await leases.handle('one', ROLLOUT, 'return');
    nowMs += 10 * MINUTE_MS;
  }
});

it('grants none while lost leases may still be in use, and never longer than one lasts', async () => {
  await records.commit([{ key: LEASES_CLOSED_KEY, value: nowMs + LEASE_MS }]);
  expect(await leases.handle('one', ROLLOUT, 'take')).toEqual({ granted: false, retryAfterMs: LEASE_MS });
  nowMs += LEASE_MS;
  expect(await isGranted('one')).toBe(true);
  // The clock is set back by a day.
  nowMs -= 24 * 60 * MINUTE_MS;
  expect(await isGranted('one')).toBe(true);
});

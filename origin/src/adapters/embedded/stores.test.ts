import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openLevelStore } from '@sitecast/shared/key-value';
import { MemoryStore } from '@sitecast/shared/key-value/testing';
import { describe, expect, it } from 'vitest';
import { testLog } from '../../testing/origin.ts';
import { testCohortStore } from '../../testing/conformance/cohort-store.ts';
import { testFleetStore } from '../../testing/conformance/fleet-store.ts';
import { testLeadership } from '../../testing/conformance/leadership.ts';
import {
  type OpenStores,
  type StoresUnderTest,
  testAuditLog,
  testTokenStore,
} from '../../testing/conformance/stores.ts';
import { EmbeddedDatabase } from './database.ts';
import { leadershipOf, openDatabase } from './open.ts';
import { openStores, storesIn } from './stores.ts';
import { Tables, type TableStore } from './tables.ts';

const now = () => Date.parse('2030-01-01T00:00:00Z');

/** Two instances on one database. */
async function openOn(tables: TableStore, close: () => Promise<void>): Promise<StoresUnderTest> {
  const database = await EmbeddedDatabase.open(tables, now);
  return {
    one: await storesIn(database),
    other: await storesIn(database),
    restart: () => openStores(tables, now),
    close,
  };
}

async function onLevel(): Promise<StoresUnderTest> {
  const path = mkdtempSync(join(tmpdir(), 'sitecast-stores-'));
  const owner = { name: 'origin', dataDirectory: path, cure: '' };
  const level = await openLevelStore({
    path: join(path, 'state'),
    witnessPath: join(path, 'witness'),
    owner,
  });
  return await openOn(new Tables(level), async () => {
    await level.close();
    rmSync(path, { recursive: true });
  });
}

const inMemory: OpenStores = () => openOn(new Tables(new MemoryStore()), async () => {});

describe.each([
  ['LevelDB', onLevel],
  ['memory', inMemory],
])('on %s', (_name, open) => {
  describe('the fleet', () => {
    testFleetStore(it, open);
  });
  describe('API tokens', () => {
    testTokenStore(it, open);
  });
  describe('the audit log', () => {
    testAuditLog(it, open);
  });
  describe("rollouts' records and cohorts", () => {
    testCohortStore(it, open);
  });
});

describe('the lock of a data directory', () => {
  testLeadership(it, async () => {
    const path = mkdtempSync(join(tmpdir(), 'sitecast-leadership-'));
    return {
      acquire: async () => leadershipOf(await openDatabase(path, () => ({}), testLog())),
      close: async () => rmSync(path, { recursive: true }),
    };
  });
});

it('stores more heard members than a function call takes arguments', async () => {
  const { fleetStore } = await openStores(new Tables(new MemoryStore()), now);
  for (let at = 0; at < 150_000; at += 1) fleetStore.registry.saw(`member ${at}`, at);
  await fleetStore.saveSeen();
  expect(fleetStore.registry.takeUnsavedSeen().size).toBe(0);
});

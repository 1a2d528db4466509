import { EmbeddedAuditLog } from './audit-log.ts';
import { EmbeddedCohortStore } from './cohort-store.ts';
import { EmbeddedDatabase } from './database.ts';
import { EmbeddedFleetStore } from './fleet-store.ts';
import { EmbeddedRevocations } from './recovery.ts';
import { OutcomeCache } from './outcome-cache.ts';
import type { TableStore } from './tables.ts';
import { EmbeddedTokenStore } from './token-store.ts';

/** All that the origin keeps in its database. */
export interface EmbeddedStores {
  audit: EmbeddedAuditLog;
  tokenStore: EmbeddedTokenStore;
  fleetStore: EmbeddedFleetStore;
  cohortStore: EmbeddedCohortStore;
  revocations: EmbeddedRevocations;
  /** Resolves when nothing is being written any more. */
  idle(): Promise<void>;
}

/** @throws SITECAST_STATE_DAMAGED */
export async function openStores(tables: TableStore, now: () => number): Promise<EmbeddedStores> {
  return await storesIn(await EmbeddedDatabase.open(tables, now));
}

/** Several may be open on one database: each knows what the others write. @throws SITECAST_STATE_DAMAGED */
export async function storesIn(database: EmbeddedDatabase): Promise<EmbeddedStores> {
  // Each follows the commits in the order in which it was opened.
  const outcomes = new OutcomeCache(database);
  const fleetStore = await EmbeddedFleetStore.open(database, outcomes);
  const { registry } = fleetStore;
  return {
    audit: new EmbeddedAuditLog(database),
    tokenStore: await EmbeddedTokenStore.open(database),
    fleetStore,
    cohortStore: await EmbeddedCohortStore.open(database, { registry, outcomes }),
    revocations: new EmbeddedRevocations(database),
    idle: () => database.idle(),
  };
}

import { join } from 'node:path';
import { SitecastError } from '@sitecast/shared/errors';
import {
  Keyspace,
  type LevelStore,
  type Loss,
  openInSpiteOfLoss,
  openLevelStore,
  type OpenOptions,
  repairLevel,
} from '@sitecast/shared/key-value';
import { LEASE_MS } from '@sitecast/shared/api';
import { LEASES_CLOSED_KEY } from './devices/leases.ts';
import type { Log } from '@sitecast/shared/log';

/**
 * Opens the gateway's database, which is also the lock on its data directory. Where it is damaged or has lost something, the gateway logs that
 * and goes on: devices keep their reports until the origin has them, documents are asked for again, and chunks are found. Only leases can't be
 * known then: no device gets one before every lease that may still be held has ended.
 * @throws SITECAST_DATA_IN_USE (conflict), SITECAST_NO_SPACE, SITECAST_STATE_UNREADABLE
 */
export async function openDatabase(
  dataDirectory: string,
  { now, log }: { now: () => number; log: Log },
): Promise<LevelStore> {
  const path = join(dataDirectory, 'state');
  const options: OpenOptions = {
    path,
    witnessPath: `${path}.witness`,
    owner: { name: 'gateway', dataDirectory, cure: 'Look for a failing disk, and start the gateway again.' },
    onTrouble: error => log.error({ err: error, code: error.code }, 'the database takes nothing'),
    onMended: () => log.info({}, 'the database was opened anew, and takes what comes'),
  };
  try {
    return await openLevelStore(options);
  } catch (error) {
    if (!isDamage(error)) throw error;
    return await openDamaged(options, { error, now, log });
  }
}

async function openDamaged(
  options: OpenOptions,
  { error, now, log }: { error: SitecastError; now: () => number; log: Log },
): Promise<LevelStore> {
  const { damaged, putAside } = await repairLevel(options.path, options.owner);
  const { store, loss } = await openInSpiteOfLoss(options);
  const fields = { code: error.code, detail: error.message, damaged, putAside, missing: missingOf(loss) };
  log.error(fields, 'the database is damaged: the gateway goes on with what is left of it');
  const closed = { key: LEASES_CLOSED_KEY, value: now() + LEASE_MS };
  await new Keyspace(store, 'leases!').commit([closed]);
  return store;
}

const missingOf = (loss: Loss | undefined): number => loss?.missing ?? 0;

function isDamage(error: unknown): error is SitecastError {
  return (
    error instanceof SitecastError &&
    (error.code === 'SITECAST_STATE_DAMAGED' || error.code === 'SITECAST_STATE_LOST')
  );
}

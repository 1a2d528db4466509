import { resolve } from 'node:path';
import { HttpStore } from '@sitecast/shared/content';
import { SitecastError } from '@sitecast/shared/errors';
import { openLog } from '@sitecast/shared/log';
import { Connections } from '@sitecast/shared/outbound';
import { HttpFetcher } from '@sitecast/shared/trust';
import { DiskAdminToken } from './adapters/disk/admin-token.ts';
import { openDataDirectory } from './adapters/disk/data-directory.ts';
import { hasData, KnownCounts, type Known, mendDatabase } from './adapters/embedded/open.ts';
import { removeUnreadable } from './adapters/embedded/recovery.ts';
import { openStores } from './adapters/embedded/stores.ts';
import { Tables } from './adapters/embedded/tables.ts';
import { loggingEndings } from './endings.ts';
import type { RecoverSettings } from './program.ts';
import type { Mirror } from './recovery/mirror-copy.ts';
import { type MendedState, recordRestore } from './recovery/record.ts';
import { isMended, recover, type Recovered } from './recovery/recover.ts';
import { restoreContent, type RestoredFrom, restoreMetadata } from './recovery/restore.ts';
import { UnfinishedRecovery } from './adapters/disk/unfinished-recovery.ts';
import { stillDamagedFor, watchMirrors } from './recovery/watched-mirrors.ts';
import { Repository } from './repository/repository.ts';
import { Tokens } from './tokens/tokens.ts';

/** `sitecast-origin recover`. */
export async function recoverFrom({
  dataDirectory,
  from,
  acceptedDay,
  damagedOnly,
  ca,
}: RecoverSettings): Promise<Recovered | RestoredFrom> {
  const directory = resolve(dataDirectory);
  const connections = await Connections.open({ ca, variables: process.env });
  const { mirrors, unread } = watchMirrors(from.map(url => toMirror(url, connections)));
  // Opening would make a database where there is none.
  if (!(await hasData(directory))) throw noData(directory);
  const log = openLog({ role: 'origin', level: 'warn' });
  const counts = new KnownCounts();
  const { unfinished, earlier, mended } = await beginRecovery(directory, counts.read);
  const endings = loggingEndings(log);
  endings.add('the database', () => mended.store.close());
  try {
    const tables = new Tables(mended.store);
    const unreadable = await removeUnreadable(tables);
    const stores = await openStores(tables, Date.now);
    endings.add('the audit log', () => stores.idle());
    const { audit, revocations } = stores;
    const { registry } = stores.fleetStore;
    const tokens = new Tokens(stores.tokenStore, Date.now);
    const options = { maxStagedBytes: Number.MAX_SAFE_INTEGER, now: Date.now, log };
    const { close, ...data } = await openDataDirectory(directory, options);
    endings.add('the thread for chunks', close);
    const metadata = await restoreMetadata(data.published, mirrors, { mayBeNewer: damagedOnly });
    const opening = Repository.open({ ...data, now: Date.now, acceptedDay, log });
    const repository = await opening.catch((error: unknown) => {
      throw stillDamagedFor(error, unread());
    });
    counts.add('entries of the audit log', () => audit.head.seq);
    const database = foundIn(mended, { earlier: earlier.lost, unreadable });
    const isWhole = !earlier.begun && !isMended(database);
    if (isWhole) await unfinished.end();
    // What the database has lost is more than files can bring back: then all of the recovery is due.
    if (damagedOnly && isWhole) {
      await recordRestore(audit, { from, metadata });
      const restored = await restoreContent({ ...data, repository, log }, mirrors);
      await endings.endAll();
      return { metadata, ...restored, asked: from, unread: unread() };
    }
    const begins = () => unfinished.note(database.lost);
    const around = { database, begins, now: Date.now, log };
    const parts = { ...data, repository, audit, registry, revocations, ...around };
    const recovered = await recover(parts, mirrors, unread);
    await unfinished.end();
    // The first admin's token may be lost.
    const adminTokenPath = await tokens.createAdminIfNone(new DiskAdminToken(directory));
    await endings.endAll();
    return { ...recovered, ...(adminTokenPath !== undefined && { adminTokenPath }) };
  } catch (error) {
    // The first error says more.
    await endings.endAll().catch(() => undefined);
    throw error;
  }
}

async function beginRecovery(directory: string, known: Known) {
  const unfinished = new UnfinishedRecovery(directory);
  const earlier = await unfinished.begin();
  const mended = await mendDatabase(directory, known).catch(async (error: unknown) => {
    // An origin is running here: nothing was touched.
    const isInUse = error instanceof SitecastError && error.code === 'SITECAST_DATA_IN_USE';
    if (isInUse && !earlier.begun) await unfinished.end();
    throw error;
  });
  if (mended.lost !== undefined) await unfinished.note(mended.lost);
  return { unfinished, earlier, mended };
}

/** What the database has lost, by what was found now or by an earlier recovery that did not end. */
function foundIn(
  { lost, damagedFiles, undecodable, putAside }: Awaited<ReturnType<typeof mendDatabase>>,
  { earlier, unreadable }: { earlier: string | undefined; unreadable: Record<string, number> },
): MendedState {
  return {
    lost: lost ?? earlier,
    damagedFiles,
    unreadable: { ...unreadable, ...(undecodable > 0 && { undecodable }) },
    putAside,
  };
}

function noData(directory: string): SitecastError {
  return new SitecastError(
    'notFound',
    'SITECAST_NOT_INITIALISED',
    `there is no origin's data in ${directory}`,
    { hint: 'Put the backup in place first.' },
  );
}

/** @throws SITECAST_STORE_URL */
function toMirror(url: string, connections: Connections): Mirror {
  const base = url.replace(/\/*$/, '');
  const chunks = new HttpStore(`${base}/chunks`, { via: connections });
  return {
    name: url,
    metadata: new HttpFetcher(`${base}/metadata`, { connections }),
    targets: new HttpFetcher(`${base}/targets`, { connections }),
    chunks,
  };
}

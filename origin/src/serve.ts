import { resolve } from 'node:path';
import { endProcessSoon, type Endings } from '@sitecast/shared/command';
import { type LogSettings, openLog } from '@sitecast/shared/log';
import { DiskAdminToken } from './adapters/disk/admin-token.ts';
import { openDataDirectory } from './adapters/disk/data-directory.ts';
import { diskRoom } from './adapters/disk/room.ts';
import { emptied, isPublished, KnownCounts, leadershipOf, openDatabase } from './adapters/embedded/open.ts';
import { openStores } from './adapters/embedded/stores.ts';
import { Tables } from './adapters/embedded/tables.ts';
import { openFleetNode } from './adapters/fleet-node.ts';
import { appListener, listen, type RunningServer } from './adapters/http-server.ts';
import { composeDelta, makeDelta } from './deltas/maker/index.ts';
import { EventLog } from './events/event-log.ts';
import { loggingEndings } from './endings.ts';
import { errorFields, type Log } from './log.ts';
import { OwnCertificate } from './own-certificate.ts';
import { UnfinishedRecovery } from './adapters/disk/unfinished-recovery.ts';
import { Repository } from './repository/repository.ts';
import { openOriginServices } from './origin-services.ts';
import type { OriginSettings } from './settings.ts';
import { Tokens } from './tokens/tokens.ts';
import { type After, Upkeep } from './upkeep.ts';

/** How long a stopping origin waits for requests under way. */
const SHUTDOWN_GRACE_MS = 15_000;

const NO_GOSSIP = { listen: [], announce: [] };

/** An origin that runs. */
export interface RunningOrigin {
  url: string;
  /** Where the first admin's token lies, if this start made one. */
  adminTokenPath: string | undefined;
  /** Why it isn't ready, though it serves. */
  notReady: string | undefined;
  reloadTls(): Promise<void>;
  /** Ends requests under way, bounded, and lets go of the data directory. */
  close(): Promise<void>;
}

interface Runtime {
  now: () => number;
  after: After;
  log: Log;
}

const systemAfter: After = (delayMs, act) => {
  // The server keeps the process alive, not its timers.
  const timer = setTimeout(act, delayMs).unref();
  return () => clearTimeout(timer);
};

/** Opens a data directory and serves it. */
export async function startOrigin(
  settings: OriginSettings,
  { now = Date.now, after = systemAfter, log }: Partial<Runtime> & { log: Log },
): Promise<RunningOrigin> {
  const directory = resolve(settings.dataDirectory);
  const ownCertificate = settings.tls && (await OwnCertificate.read(settings.tls));
  await new UnfinishedRecovery(directory).refuse();
  // They run when the origin is closed, and when a later step of its start fails.
  const endings = loggingEndings(log);
  try {
    const runtime = { now, after, log };
    const storage = await openStorage(directory, settings, runtime, endings);
    const { repository, fleetStore, leadership } = storage;
    const {
      stagingTtlMs,
      gossip = NO_GOSSIP,
      maxReportBytes,
      scrubBytesPerS = 0,
      makesDeltas = false,
    } = settings;
    const upkeep = new Upkeep({ repository, leadership, stagingTtlMs, ownCertificate, ...runtime });
    endings.add('upkeep', () => upkeep.stop());
    await upkeep.start();
    const { registry } = fleetStore;
    const fleetNode = await openFleetNode({ gossip, directory, repository, registry, ...runtime });
    if (fleetNode) endings.add('gossip', () => fleetNode.close());
    const services = await openOriginServices(
      {
        ...storage,
        ...runtime,
        ownCertificate,
        events: new EventLog(now),
        deltaMaker: { makeDelta, composeDelta },
        gossipAddresses: () => fleetNode?.addresses() ?? [],
      },
      { maxReportBytes, scrubBytesPerS, makesDeltas },
    );
    endings.add('the fleet', () => services.close());
    endings.add('looking for damage', () => services.stop());
    await fleetNode?.serve(appListener(services.app));
    const server = await listen(services.app, { ...settings.listen, tls: ownCertificate?.pair });
    endings.add('the server', () => server.close(SHUTDOWN_GRACE_MS));
    // Requests that wait are answered first: the server closes once none does.
    endings.add('those that wait', async () => services.answerWaiting());
    services.start();
    return {
      url: server.url,
      adminTokenPath: storage.adminTokenPath,
      notReady: (await services.readiness.check())?.message,
      reloadTls: () => reloadTls(server, ownCertificate, log),
      close: () => endings.endAll(),
    };
  } catch (error) {
    // The error that keeps it from starting says more.
    await endings.endAll().catch(() => undefined);
    throw error;
  }
}

/** Opens what lasts: the database first, which is the lock on the directory, then the files. */
async function openStorage(
  directory: string,
  { maxStagedBytes, acceptedDay, reserveBytes }: OriginSettings,
  { now, log }: Runtime,
  endings: Endings,
) {
  const counts = new KnownCounts();
  const state = await openDatabase(directory, counts.read, log);
  const leadership = leadershipOf(state);
  endings.add('the database', () => leadership.release());
  const stores = await openStores(new Tables(state), now);
  endings.add('the audit log', () => stores.idle());
  const tokens = new Tokens(stores.tokenStore, now);
  if (!tokens.hasAdmin && (await isPublished(directory))) throw emptied(directory);
  const adminTokenPath = await tokens.createAdminIfNone(new DiskAdminToken(directory));
  const { close, ...data } = await openDataDirectory(directory, { maxStagedBytes, now, log });
  endings.add('the thread for chunks', close);
  const repository = await Repository.open({ ...data, acceptedDay, now, log });
  endings.add('the repository', () => repository.idle());
  // For people, who may one day miss some of them.
  counts.add('devices and gateways', () => stores.fleetStore.registry.size);
  counts.add('API tokens', () => tokens.size);
  counts.add('entries of the audit log', () => stores.audit.head.seq);
  const room = diskRoom(directory, reserveBytes);
  return { ...stores, ...data, state, leadership, tokens, adminTokenPath, repository, room };
}

async function reloadTls(
  server: RunningServer,
  certificate: OwnCertificate | undefined,
  log: Log,
): Promise<void> {
  if (!certificate) return;
  await certificate.renew();
  server.renewTls(certificate.pair);
  for (const { message, role, ...fields } of certificate.warnings(Date.now()))
    log.warn({ subject: role, ...fields }, message);
}

/** `sitecast-origin serve`: runs until a signal asks it to stop. */
export async function serve(settings: OriginSettings, logSettings: LogSettings): Promise<void> {
  const log = openLog({ role: 'origin', ...logSettings });
  const origin = await startOrigin(settings, { log });
  if (origin.adminTokenPath !== undefined)
    process.stdout.write(`The admin's API token is in ${origin.adminTokenPath}\n`);
  process.stdout.write(
    `sitecast-origin listens on ${origin.url}, data in ${resolve(settings.dataDirectory)}\n`,
  );
  if (origin.notReady !== undefined)
    process.stdout.write(`sitecast-origin is not ready: ${origin.notReady}\n`);
  process.on('SIGHUP', () => {
    origin.reloadTls().then(
      () => log.info({}, 'the TLS certificate was read anew'),
      (error: unknown) =>
        log.error(errorFields(error), 'the TLS certificate could not be read anew: the old one stays in use'),
    );
  });
  await firstSignal();
  log.info({}, 'stopping');
  try {
    await origin.close();
  } finally {
    endProcessSoon();
  }
}

function firstSignal(): Promise<void> {
  return new Promise(resolve => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      // Once: a second signal ends the process at once.
      process.once(signal, () => resolve());
    }
  });
}

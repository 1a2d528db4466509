import { join, resolve } from 'node:path';
import { endProcessSoon, Endings, runProgram } from '@sitecast/shared/command';
import { HttpStore } from '@sitecast/shared/content';
import { writeFileDurably } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { DatabaseState } from '@sitecast/shared/key-value';
import { type LogSettings, openLog } from '@sitecast/shared/log';
import { Connections } from '@sitecast/shared/outbound';
import { HttpFetcher } from '@sitecast/shared/trust';
import { type DataDirectory, openDataDirectory } from './adapters/disk/data-directory.ts';
import { diskRoom } from './adapters/disk/room.ts';
import { openFleetNode } from './adapters/fleet-node.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import {
  emptied,
  hasData,
  isPublished,
  type Known,
  mendDatabase,
  openDatabase,
} from './adapters/embedded/open.ts';
import { removeUnreadable } from './adapters/embedded/recovery.ts';
import { openStores } from './adapters/embedded/stores.ts';
import { Tables } from './adapters/embedded/tables.ts';
import { type FleetServices, openFleetServices } from './fleet-services.ts';
import { EventLog } from './events/event-log.ts';
import { createApp } from './http/app.ts';
import type { OriginApp } from './http/context.ts';
import type { AppDeps } from './http/deps.ts';
import { EventStreams } from './http/event-streams.ts';
import { TimestampWaiters } from './http/long-poll.ts';
import { BODY_PACE } from './http/body.ts';
import { MAX_BODY_MEMORY_BYTES, MAX_RESPONSE_MEMORY_BYTES, MemoryBudget } from './http/memory.ts';
import { Metrics } from './http/metrics.ts';
import { SignedRequests } from './http/signed.ts';
import { errorFields, type Log } from './log.ts';
import { Readiness } from './readiness.ts';
import { originProgram, type RecoverSettings } from './program.ts';
import type { Mirror } from './recovery/mirror-copy.ts';
import { recordRestore } from './recovery/record.ts';
import { isMended, recover, type Recovered } from './recovery/recover.ts';
import { restoreContent, type RestoredFrom, restoreMetadata } from './recovery/restore.ts';
import { stillDamagedFor, watchMirrors } from './recovery/watched-mirrors.ts';
import { Repository } from './repository/repository.ts';
import { Scrubber } from './repository/scrubber.ts';
import { OwnCertificate } from './own-certificate.ts';
import type { OriginSettings } from './settings.ts';
import { Tokens } from './tokens/tokens.ts';
import { UnfinishedRecovery } from './adapters/disk/unfinished-recovery.ts';
import type { MendedState } from './recovery/record.ts';
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

interface Surroundings {
  now: () => number;
  after: After;
  log: Log;
}

const systemAfter: After = (delayMs, act) => {
  // The server keeps the process alive, not what it does besides.
  const timer = setTimeout(act, delayMs).unref();
  return () => clearTimeout(timer);
};

/** Opens a data directory and serves it. */
export async function startOrigin(
  settings: OriginSettings,
  { now = Date.now, after = systemAfter, log }: Partial<Surroundings> & { log: Log },
): Promise<RunningOrigin> {
  const directory = resolve(settings.dataDirectory);
  const ownCertificate = settings.tls && (await OwnCertificate.read(settings.tls));
  await new UnfinishedRecovery(directory).refuse();
  let known: Known = () => ({});
  const state = await openDatabase(directory, () => known(), log);
  // When the origin is closed as well as when a later step of its start fails.
  const endings = loggingEndings(log);
  endings.add('the database', () => state.close());
  try {
    const stores = await openStores(new Tables(state), now);
    endings.add('the audit log', () => stores.idle());
    const { audit } = stores;
    const tokens = new Tokens(stores.tokenStore, now);
    if (!tokens.hasAdmin && (await isPublished(directory))) throw emptied(directory);
    const adminTokenPath = await keepFirstAdmin(tokens, directory);
    const room = diskRoom(directory, settings.reserveBytes);
    const { maxStagedBytes } = settings;
    const { close, ...data } = await openDataDirectory(directory, { maxStagedBytes, now, log });
    endings.add('the thread for chunks', close);
    const repository = await openRepository({ ...data, now, log }, settings);
    endings.add('the repository', () => repository.idle());
    const { stagingTtlMs, maxReportBytes, gossip = NO_GOSSIP } = settings;
    const upkeep = new Upkeep({ repository, stagingTtlMs, ownCertificate, now, after, log });
    endings.add('upkeep', () => upkeep.stop());
    await upkeep.start();
    const events = new EventLog(now);
    const around = { events, room, ownCertificate, now, after, log };
    const services = await openFleetServices({ repository, ...stores, maxReportBytes, ...around });
    endings.add('the fleet', () => services.close());
    known = () => countsOf({ ...services, audit, tokens });
    const fleetNode = await openFleetNode({ ...around, ...services.fleet, gossip, directory, repository });
    if (fleetNode) {
      endings.add('gossip', () => fleetNode.close());
      services.fleet.gateways.ownAddresses = () => fleetNode.addresses();
    }
    const parts = { ...services, ...around, ...data, audit, repository, tokens, state };
    const { app, wakeAll, readiness, lookout } = openApp(parts, settings);
    endings.add('looking for damage', () => lookout.stop());
    const server = await listen(app, { ...settings.listen, tls: ownCertificate?.pair });
    endings.add('the server', () => server.close(SHUTDOWN_GRACE_MS));
    // Whoever waits for something is answered first: the server closes once nobody does.
    endings.add('those that wait', wakeAll);
    lookout.start();
    return {
      url: server.url,
      adminTokenPath,
      notReady: (await readiness.check())?.message,
      reloadTls: () => reloadTls(server, ownCertificate, log),
      close: () => endings.endAll(),
    };
  } catch (error) {
    // What keeps it from starting says more.
    await endings.endAll().catch(() => undefined);
    throw error;
  }
}

function loggingEndings(log: Log): Endings {
  return new Endings((what, error) => log.error({ ...errorFields(error), what }, 'stopping went wrong'));
}

/** For people, who may one day miss some of them. */
function countsOf({
  fleet,
  audit,
  tokens,
}: Pick<AppParts, 'fleet' | 'audit' | 'tokens'>): Record<string, number> {
  return {
    'devices and gateways': fleet.registry.size,
    'API tokens': tokens.size,
    'entries of the audit log': audit.head.seq,
  };
}

function openRepository(
  deps: Parameters<typeof Repository.open>[0],
  { acceptedDay }: Pick<OriginSettings, 'acceptedDay'>,
): Promise<Repository> {
  return Repository.open({ ...deps, acceptedDay });
}

interface AppParts
  extends FleetServices,
    Surroundings,
    Pick<AppDeps, 'audit' | 'repository' | 'tokens' | 'room' | 'ownCertificate'>,
    DataDirectory {
  state: DatabaseState;
  events: EventLog;
}

interface OpenedApp {
  app: OriginApp;
  readiness: Readiness;
  lookout: { start: () => void; stop: () => Promise<void> };
  wakeAll: () => Promise<void>;
}

/** @returns the app, what looks for damage and for whether it's ready, and what answers all that wait, and lets nobody wait any more */
function openApp({ events, after, ...parts }: AppParts, { scrubBytesPerS = 0 }: OriginSettings): OpenedApp {
  const republishRollouts = (product: string) => parts.rollouts.republish(product);
  const scrubber = new Scrubber({ ...parts, after, bytesPerS: scrubBytesPerS, republishRollouts });
  const readiness = new Readiness({ ...parts, after });
  const waiters = new TimestampWaiters(parts.repository, after);
  const eventStreams = new EventStreams(events, after);
  const bodies = { memory: new MemoryBudget(MAX_BODY_MEMORY_BYTES), pace: BODY_PACE };
  const app = createApp({
    ...parts,
    scrubber,
    readiness,
    signedRequests: new SignedRequests({ ...parts.fleet, ...parts, bodies }),
    waiters,
    eventStreams,
    metrics: new Metrics({ ...parts, scrubber }),
    bodies,
    responseMemory: new MemoryBudget(MAX_RESPONSE_MEMORY_BYTES),
  });
  const wakeAll = async (): Promise<void> => {
    waiters.close();
    eventStreams.close();
  };
  const start = (): void => {
    scrubber.start();
    readiness.start();
  };
  const stop = async (): Promise<void> => {
    await readiness.stop();
    await scrubber.stop();
  };
  return { app, readiness, lookout: { start, stop }, wakeAll };
}

/** @returns where the first admin's token lies, if one was made now */
async function keepFirstAdmin(tokens: Tokens, directory: string): Promise<string | undefined> {
  const path = join(directory, 'admin.token');
  const made = await tokens.createAdminIfNone(token => writeFileDurably(path, `${token}\n`, 0o600));
  return made && path;
}

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
  // The database would be made where there's none.
  if (!(await hasData(directory))) throw noData(directory);
  const log = openLog({ role: 'origin', level: 'warn' });
  let known: Known = () => ({});
  const { unfinished, earlier, mended } = await beginRecovery(directory, () => known());
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
    known = () => ({ 'entries of the audit log': audit.head.seq });
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
    // The first admin's may be among what was lost.
    const adminTokenPath = await keepFirstAdmin(tokens, directory);
    await endings.endAll();
    return { ...recovered, ...(adminTokenPath !== undefined && { adminTokenPath }) };
  } catch (error) {
    // What went wrong first says more.
    await endings.endAll().catch(() => undefined);
    throw error;
  }
}

async function beginRecovery(directory: string, known: Known) {
  const unfinished = new UnfinishedRecovery(directory);
  const earlier = await unfinished.begin();
  const mended = await mendDatabase(directory, known).catch(async (error: unknown) => {
    // An origin runs on it: nothing was touched.
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
async function serve(settings: OriginSettings, logSettings: LogSettings): Promise<void> {
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
      // Once: whoever asks a second time doesn't want to wait.
      process.once(signal, () => resolve());
    }
  });
}

/** @returns the exit code */
export function main(argv: readonly string[]): Promise<number> {
  const program = originProgram({ serve, recover: recoverFrom }, text => process.stdout.write(text));
  return runProgram(program, argv, { configFiles: ['/etc/sitecast/origin.yaml'] });
}

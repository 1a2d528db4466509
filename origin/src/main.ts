import { access } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { runProgram } from '@sitecast/shared/command';
import { HttpStore } from '@sitecast/shared/content';
import { makeDirectory, readSecretBounded, writeFileDurably } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import { HttpFetcher } from '@sitecast/shared/trust';
import { type Level, pino } from 'pino';
import { AuditLog } from './audit/log.ts';
import { DiskFiles } from './adapters/disk-files.ts';
import { openFleetNode } from './adapters/fleet-node.ts';
import { listen, type RunningServer } from './adapters/http-server.ts';
import { openDatabase } from './adapters/level-database.ts';
import { LevelFleet } from './adapters/level-fleet.ts';
import { LevelTokens } from './adapters/level-tokens.ts';
import { type FleetServices, openFleetServices } from './fleet-services.ts';
import { ThreadedChunks } from './adapters/threaded-chunks.ts';
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
import type { Log } from './log.ts';
import { originProgram, type RecoverSettings } from './program.ts';
import type { Mirror } from './recovery/mirror-copy.ts';
import { recordRestore } from './recovery/record.ts';
import { recover, type Recovered } from './recovery/recover.ts';
import { restoreContent, type Restored, restoreMetadata } from './recovery/restore.ts';
import { whyNotReady } from './repository/description.ts';
import { Repository } from './repository/repository.ts';
import { Scrubber } from './repository/scrubber.ts';
import type { OriginSettings } from './settings.ts';
import { StagedFiles } from './staging/staged-files.ts';
import { prepareDataDirectory } from './storage/layout.ts';
import { Tokens } from './tokens/tokens.ts';
import { type After, Upkeep } from './upkeep.ts';

/** How long a stopping origin waits for requests under way. */
const SHUTDOWN_GRACE_MS = 15_000;

/** A certificate with its chain, or a private key. */
const MAX_PEM_BYTES = 1024 * 1024;

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
  const tls = await readTls(settings);
  const database = await openState(directory);
  // Ended in the reverse order, when the origin is closed as well as when a later step of its start fails.
  const endings: (() => Promise<void>)[] = [() => database.close()];
  try {
    const store = new LevelFleet(database);
    const audit = await AuditLog.open(store, now);
    endings.push(() => audit.idle());
    const tokens = await Tokens.open(new LevelTokens(database), audit, now);
    const adminTokenPath = await keepFirstAdmin(tokens, directory);
    const files = new DiskFiles(directory);
    await prepareDataDirectory(files);
    const chunks = await ThreadedChunks.open({ root: directory, maxStagedBytes: settings.maxStagedBytes });
    endings.push(() => chunks.close());
    const staged = await StagedFiles.open(files, now);
    const repository = await openRepository({ files, chunks, staged, now, log }, settings);
    endings.push(() => repository.idle());
    const upkeep = new Upkeep({ repository, stagingTtlMs: settings.stagingTtlMs, now, after, log });
    endings.push(() => upkeep.stop());
    await upkeep.start();
    const events = new EventLog(now);
    const services = await openFleetServices({ repository, files, store, audit, events, now, after, log });
    endings.push(() => services.close());
    const { gossip = NO_GOSSIP } = settings;
    const fleetNode = await openFleetNode({ gossip, directory, repository, now, after, log });
    if (fleetNode) {
      endings.push(() => fleetNode.close());
      services.fleet.gateways.ownAddresses = () => fleetNode.addresses();
    }
    const parts = { ...services, audit, events, repository, chunks, staged, tokens, files, now, after, log };
    const { app, wakeAll, scrubber } = openApp(parts, settings);
    endings.push(() => scrubber.stop());
    const server = await listen(app, { ...settings.listen, tls });
    // Whoever waits for something is answered first: the server closes once nobody does.
    endings.push(() => server.close(SHUTDOWN_GRACE_MS), wakeAll);
    scrubber.start();
    return {
      url: server.url,
      adminTokenPath,
      notReady: whyNotReady(repository, now())?.message,
      reloadTls: () => reloadTls(server, settings),
      close: () => endAll(endings),
    };
  } catch (error) {
    await endAll(endings);
    throw error;
  }
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
    Pick<AppDeps, 'audit' | 'repository' | 'chunks' | 'staged' | 'tokens' | 'files'> {
  events: EventLog;
}

/** @returns the app, what looks for damage, and what answers all that wait, and lets nobody wait any more */
function openApp(
  { events, after, ...parts }: AppParts,
  { scrubBytesPerS = 0 }: OriginSettings,
): { app: OriginApp; scrubber: Scrubber; wakeAll: () => Promise<void> } {
  const republishRollouts = (product: string) => parts.rollouts.republish(product);
  const scrubber = new Scrubber({ ...parts, after, bytesPerS: scrubBytesPerS, republishRollouts });
  const waiters = new TimestampWaiters(parts.repository, after);
  const eventStreams = new EventStreams(events, after);
  const bodies = { memory: new MemoryBudget(MAX_BODY_MEMORY_BYTES), pace: BODY_PACE };
  const app = createApp({
    ...parts,
    scrubber,
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
  return { app, scrubber, wakeAll };
}

/** @returns where the first admin's token lies, if one was made now */
async function keepFirstAdmin(tokens: Tokens, directory: string): Promise<string | undefined> {
  const path = join(directory, 'admin.token');
  const made = await tokens.createAdminIfNone(token => writeFileDurably(path, `${token}\n`, 0o600));
  return made && path;
}

/** `sitecast-origin recover`. */
async function recoverFrom({
  dataDirectory,
  from,
  acceptedDay,
  damagedOnly,
}: RecoverSettings): Promise<Recovered | Restored> {
  const directory = resolve(dataDirectory);
  const mirrors = from.map(toMirror);
  // The database would be made where there's none.
  await access(join(directory, 'state')).catch((cause: unknown) => {
    throw new SitecastError(
      'notFound',
      'SITECAST_NOT_INITIALISED',
      `there is no origin's data in ${directory}`,
      {
        hint: 'Put the backup in place first.',
        cause,
      },
    );
  });
  const log = pino({ level: 'warn', base: { service: 'sitecast-origin' } }, pino.destination(2));
  const database = await openState(directory);
  const endings: (() => Promise<void>)[] = [() => database.close()];
  try {
    const files = new DiskFiles(directory);
    await prepareDataDirectory(files);
    const chunks = await ThreadedChunks.open({
      root: directory,
      maxStagedBytes: Number.MAX_SAFE_INTEGER,
    });
    endings.push(() => chunks.close());
    const staged = await StagedFiles.open(files, Date.now);
    const audit = await AuditLog.open(new LevelFleet(database), Date.now);
    endings.push(() => audit.idle());
    const metadata = await restoreMetadata(files, mirrors);
    const repository = await Repository.open({ files, chunks, staged, now: Date.now, acceptedDay, log });
    if (damagedOnly) {
      await recordRestore(audit, { from, metadata });
      return { metadata, ...(await restoreContent({ repository, files, chunks, log }, mirrors)) };
    }
    return await recover({ repository, files, staged, chunks, audit, log }, mirrors);
  } finally {
    await endAll(endings);
  }
}

/** @throws SITECAST_STORE_URL */
function toMirror(url: string): Mirror {
  const base = url.replace(/\/*$/, '');
  const chunks = new HttpStore(`${base}/chunks`);
  return {
    name: url,
    metadata: new HttpFetcher(`${base}/metadata`),
    targets: new HttpFetcher(`${base}/targets`),
    chunks,
  };
}

/** The database, first of all: it is the lock on the directory, too. */
async function openState(directory: string) {
  const state = join(directory, 'state');
  await makeDirectory(directory);
  await makeDirectory(state, 0o700);
  return await openDatabase(state, directory);
}

async function endAll(endings: readonly (() => Promise<void>)[]): Promise<void> {
  for (const end of [...endings].reverse()) await end();
}

async function readTls({ tls }: OriginSettings): Promise<{ cert: Buffer; key: Buffer } | undefined> {
  if (!tls) return undefined;
  return {
    cert: await readSecretBounded(tls.certPath, MAX_PEM_BYTES),
    key: await readSecretBounded(tls.keyPath, MAX_PEM_BYTES),
  };
}

async function reloadTls(server: RunningServer, settings: OriginSettings): Promise<void> {
  const tls = await readTls(settings);
  if (tls) server.renewTls(tls);
}

/** `sitecast-origin serve`: runs until a signal asks it to stop. */
async function serve(settings: OriginSettings, logLevel: Level | 'silent'): Promise<void> {
  const log = pino({ level: logLevel, base: { service: 'sitecast-origin' } }, pino.destination(2));
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
      (error: unknown) => log.error({ err: error }, 'the TLS certificate could not be read anew'),
    );
  });
  await firstSignal();
  log.info({}, 'stopping');
  await origin.close();
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

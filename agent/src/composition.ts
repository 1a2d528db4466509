import { join } from 'node:path';
import { setAside } from '@sitecast/shared/durable';
import { describeError } from '@sitecast/shared/command';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { readJoinToken } from '@sitecast/shared/fleet';

import type { Identity } from '@sitecast/shared/identity';
import { Daemon } from './daemon.ts';
import { Admission, serveHook } from './peers/admission.ts';
import { heldFiles } from './peers/held-files.ts';
import { KnownPeers } from './peers/known-peers.ts';
import { SiteExchange } from './peers/site-exchange.ts';
import type {
  AgentClock,
  BootControl,
  Gateway,
  HealthCheck,
  PeerPorts,
  Log,
  RunCommand,
  SitePeers,
  Slot,
  SlotName,
  WindowApplier,
} from './ports.ts';
import { Delivery, delivering } from './reports/delivery.ts';
import { Outbox } from './reports/outbox.ts';
import { FILE_NAME as OUTBOX_FILE } from './reports/report-chain.ts';
import { deltaInventory, reportFacts, storageNotes } from './reports/report-facts.ts';
import { Reporter } from './reports/reporter.ts';
import { StateChangeLogger } from './reports/state-change-logger.ts';
import type { PeerSettings, RunSettings } from './settings.ts';
import { clearDataDirectory } from './state/data-directory.ts';
import type { DurableFiles } from './state/durable-files.ts';
import { Spending } from './state/spending.ts';
import { StateFile } from './state/state-file.ts';
import { STATUS_FILE, StatusBoard } from './state/status.ts';
import { UpdateAgent } from './update/agent.ts';
import { Confirmation } from './update/boot-steps.ts';
import { ChunkFetcher } from './update/chunk-fetcher.ts';
import { Deltas } from './update/deltas.ts';
import { FrameSizes } from './update/frame-sizes.ts';
import { Health } from './update/health.ts';
import { Hooks } from './update/hooks.ts';
import type { InstallDependencies } from './update/install-steps.ts';
import { KeptPatches } from './update/kept-patches.ts';
import { Leases, noteRefusals } from './update/leases.ts';
import { LeaveByTurns } from './update/leave-by-turns.ts';
import { Reboots } from './update/reboots.ts';
import { Releases } from './update/releases.ts';
import { Schedule } from './update/schedule.ts';
import { SlotFiller } from './update/slot-filler.ts';
import { SlotContents } from './update/slot-contents.ts';
import { SlotWatch } from './update/slots.ts';
import { SILENT_FOR_MS } from './update/turns.ts';
import { UpdateChecker } from './update/update-checker.ts';
import { WindowFiller } from './update/window-filler.ts';
import { GatewaySilence } from './upstream/gateway-silence.ts';
import { Gateways } from './upstream/gateways.ts';
import { Membership } from './upstream/membership.ts';
import { NearbySources } from './upstream/nearby-sources.ts';
import { Trust } from './upstream/trust.ts';
import { trustStart } from './upstream/trust-start.ts';
import { wishedName } from './upstream/wished-name.ts';

/** While the machine boots or proves itself, no chunks are handed out. */
const BUSY_STATES: ReadonlySet<string> = new Set(['rebooting', 'confirming']);

/** What an agent needs from outside. `main` knows the adapters. */
export interface AgentPorts {
  identity: Identity;
  clock: AgentClock;
  slots: Readonly<Record<SlotName, Slot>>;
  boot: BootControl;
  run: RunCommand;
  gateways: [Gateway, ...Gateway[]];
  files: DurableFiles;
  applier: WindowApplier;
  healthChecks: readonly HealthCheck[];
  log: Log;
  /** Fires when this process is asked to end. */
  stop: AbortSignal;
  /** Milliseconds on a clock that never goes back; default: the process's. */
  monotonicMs?: (() => number) | undefined;
  /** Opens this device to its peers; undefined: it has no peers. */
  startPeers: ((settings: PeerSettings, ports: PeerPorts) => Promise<SitePeers>) | undefined;
}

/** An agent that is put together, and what of it others hold on to. */
export interface OpenAgent {
  agent: UpdateAgent;
  daemon: Daemon;
  confirmation: Confirmation;
  identity: Identity;
  boot: BootControl;
  stateFile: StateFile;
  outbox: Outbox;
  status: StatusBoard;
  gateways: Gateways;
  trust: Trust;
  reporter: Reporter;
  delivery: Delivery;
  exchange: SiteExchange | undefined;
}

/** Opens a data directory, which the caller owns, and puts the agent together: here everything is connected. */
export async function openAgent(settings: RunSettings, ports: AgentPorts): Promise<OpenAgent> {
  const { identity, clock, slots, boot, files, log, stop } = ports;
  const { data, product, hardware } = settings;
  const now = () => clock.now();
  const warn = (message: string) => log('warn', message);

  // What lies in the data directory, and the way to the gateways.
  await clearDataDirectory(data, log);
  const gateways = new Gateways(ports.gateways, now);
  const token = await readJoinToken(settings, { kind: 'device', hasBegun: () => Trust.hasBegun(data), warn });
  const begin = await trustStart(settings, token);
  const trust = await Trust.open(data, gateways, { start: begin, now, signal: stop });
  const stateFile = await StateFile.open(data, files);
  const outbox = await openOutbox(data, ports);
  if (outbox.foundWrong) {
    const { events, unreadable } = outbox.foundWrong;
    const found = { reports: events.length, unreadable };
    log('warn', 'what was reported is told again in a new chain: its file was not right', found);
  }
  const wish = await wishedName(settings, warn);
  const about = { product, hardware, wish, token: token?.pair };
  const membership = new Membership({ gateways, identity, stateFile, ...about });

  // What is shown and reported.
  const slotWatch = new SlotWatch({ slots, stateFile });
  const status = openStatus(settings, ports, { trust, stateFile, outbox, slotWatch, wish });
  const stateChanges = new StateChangeLogger(log);
  const spending = await Spending.open(data, {
    maxBytes: settings.maxBytes,
    maxApplyMs: settings.maxApplyMs,
    files,
  });
  status.set({ transfer: spending.shown });
  const deltas = deltaInventory(settings, ports.applier);
  const facts = (counter: number | undefined) => ({
    ...reportFacts({ trust, stateFile, status, deltas }),
    transfer: spending.transferOf(counter),
  });
  const onProblem = storageNotes(stateChanges, status);
  const reporter = new Reporter({ outbox, clock, stateChanges, facts, onProblem });
  const delivery = new Delivery({ outbox, gateways, id: identity.id, now, log });
  const exchange = await openExchange(settings, ports, { gateways, trust, membership, stateFile, status });
  const deliver = delivering({ delivery, trust, outbox, reporter, gateways, exchange, status });

  // The update, and what runs it.
  const confirmation = new Confirmation(settings.confirmWithinMs);
  const opened = {
    confirmation,
    reporter,
    identity,
    boot,
    stateFile,
    outbox,
    status,
    gateways,
    trust,
    delivery,
    exchange,
  };
  const update = connectUpdate(settings, ports, { ...opened, membership, stateChanges, spending });
  const { factoryRelease, pollMs, startJitterMs } = settings;
  const kept = { boot, stateFile, status, reporter, outbox, data, slots, slotWatch };
  const agent = new UpdateAgent({ ...kept, update, factoryRelease, deliver });
  const running = { agent, trust, gateways, exchange, outbox, status, confirmation, clock, log, stop };
  return { ...opened, agent, daemon: new Daemon({ ...running, pollMs, startJitterMs }) };
}

interface Opened extends Omit<OpenAgent, 'agent' | 'daemon' | 'delivery'> {
  membership: Membership;
  stateChanges: StateChangeLogger;
  spending: Spending;
}

function connectUpdate(settings: RunSettings, ports: AgentPorts, opened: Opened): InstallDependencies {
  const { clock, slots, run, log, stop } = ports;
  const { identity, boot, stateFile, outbox, status, gateways, trust, exchange, spending } = opened;
  const { confirmation, membership, reporter, stateChanges } = opened;
  const { product, hardware, hooks, hookTimeoutMs, healthTimeoutMs } = settings;
  const { minActivationIntervalMs, maxFetchBytes, maxBytes } = settings;
  const { id } = identity;
  const reporting = { status, outbox, reporter, stateChanges };
  const releases = new Releases({ trust, product });
  const { monotonicMs = () => performance.now() } = ports;
  const silence = new GatewaySilence({ gateways, stateFile, maxMs: SILENT_FOR_MS, monotonicMs });
  const runHooks = new Hooks({ product, hooks, hookTimeoutMs, healthTimeoutMs, slots, run, clock, log });
  const filling = connectFilling(settings, ports, { ...opened, releases });
  return {
    boot,
    stateFile,
    reporter,
    status,
    stateChanges,
    clock,
    log,
    stop,
    confirmation,
    checker: new UpdateChecker({
      product,
      hardware,
      trust,
      membership,
      stateFile,
      boot,
      clock,
      exchange,
      silence,
      ...reporting,
    }),
    releases,
    ...filling,
    spending,
    frameSizes: new FrameSizes(gateways),
    schedule: new Schedule({ clock, trust, stateFile, minActivationIntervalMs, maxFetchBytes, maxBytes }),
    hooks: runHooks,
    health: new Health({
      hooks: runHooks,
      checks: ports.healthChecks,
      retries: settings.health.retries,
      retryPauseMs: settings.health.retryPauseMs,
      timeoutMs: healthTimeoutMs,
      clock,
      log,
      stop,
    }),
    confirmAfterMs: settings.health.confirmAfterMs,
    leases: new Leases({ gateways, id, clock, log, stop, onRefused: noteRefusals(stateFile) }),
    leaveByTurns: new LeaveByTurns({ id, clock, trust, stateFile, silence, exchange, log }),
    reboots: new Reboots({ boot, clock, log, stop }),
  };
}

/** What fills a slot: from both slots, by windows, and with chunks of the site. */
function connectFilling(
  settings: RunSettings,
  { clock, slots, files, applier, log }: AgentPorts,
  { releases, ...opened }: Opened & { releases: Releases },
): Pick<InstallDependencies, 'deltas' | 'contents' | 'filler'> {
  const { identity, stateFile, status, gateways, trust, exchange, spending, reporter } = opened;
  const { data, product, deltas: mode, maxApplyMs, concurrency, concurrencyWithPeers } = settings;
  const contents = new SlotContents({ data, files, releases, stateFile, spending, log });
  const known = { product, trust, gateways, contents, stateFile, spending, log };
  const deltas = new Deltas({ ...known, mode, maxApplyMs });
  const patches = new KeptPatches(data, files);
  const filler = new SlotFiller({
    id: identity.id,
    slots,
    stateFile,
    gateways,
    exchange,
    contents,
    deltas,
    fetcher: new ChunkFetcher({ gateways, exchange, clock, spending, concurrency, concurrencyWithPeers }),
    windows: new WindowFiller({ applier, patches, spending, maxApplyMs }),
    encoders: applier.encoders,
    spending,
    clock,
    status,
    reporter,
  });
  return { deltas, contents, filler };
}

/** Codes that say that no file of reports lies in its place. */
const NO_REPORTS: ReadonlySet<string> = new Set(['SITECAST_FILE_TOO_LARGE', 'SITECAST_NOT_A_FILE']);

/** A file of reports that the medium can't read is set aside, and a new chain begins. */
async function openOutbox(directory: string, { identity, files, log }: AgentPorts): Promise<Outbox> {
  try {
    return await Outbox.open(directory, identity, files);
  } catch (error) {
    const isLost =
      isSystemError(error, 'EIO') || (error instanceof SitecastError && NO_REPORTS.has(error.code));
    if (!isLost) throw error;
    const aside = await setAside(join(directory, OUTBOX_FILE));
    log('error', `the reports can't be read, and are now ${aside}: ${error.message}`, { code: error.code });
    return Outbox.open(directory, identity, files);
  }
}

function openStatus(
  settings: RunSettings,
  { identity, clock }: AgentPorts,
  {
    trust,
    stateFile,
    outbox,
    slotWatch,
    wish,
  }: {
    trust: Trust;
    stateFile: StateFile;
    outbox: Outbox;
    slotWatch: SlotWatch;
    wish: string | undefined;
  },
): StatusBoard {
  return new StatusBoard(join(settings.data, STATUS_FILE), {
    format: 'sitecast-status-1',
    at: new Date(clock.now()).toISOString(),
    pid: process.pid,
    id: identity.id,
    product: settings.product,
    hardware: settings.hardware,
    ...(wish !== undefined && { wish }),
    enrolment: 'unknown',
    state: 'checking',
    boot: { kind: settings.boot.kind },
    slots: slotWatch.shown,
    update: stateFile.current.update,
    lastFailure: stateFile.current.lastFailure,
    barred: stateFile.current.barred,
    gateways: settings.gateways,
    metadata: { timestampVersion: trust.timestampVersion, clock: trust.clock().state },
    reports: { pending: outbox.pendingCount },
  });
}

/** Updates come without peers as well, so an error here is logged, and the agent goes on. */
async function openExchange(
  settings: RunSettings,
  { identity, slots, run, files, startPeers, log, stop }: AgentPorts,
  {
    gateways,
    trust,
    membership,
    stateFile,
    status,
  }: {
    gateways: Gateways;
    trust: Trust;
    membership: Membership;
    stateFile: StateFile;
    status: StatusBoard;
  },
): Promise<SiteExchange | undefined> {
  if (!settings.peers || !startPeers) return undefined;
  const admission = new Admission(trust, membership);
  const hook = serveHook(settings, run, stop);
  let peers: SitePeers | undefined;
  const show = (): void => {
    if (peers) status.set({ peers: { ...peers.counts } });
  };
  try {
    peers = await startPeers(settings.peers, {
      credential: () => {
        const { assignment } = stateFile.current;
        return assignment === undefined ? undefined : Buffer.from(JSON.stringify(assignment));
      },
      mayServe: (id, credential) => admission.mayServe(id, credential),
      isBusy: () => BUSY_STATES.has(status.current.state) || !hook.isWelcome,
      files: heldFiles({ trust, directory: settings.data, slots: () => stateFile.current.slots }),
      onReachable: show,
    });
    show();
  } catch (error) {
    const { code, message, hint } = describeError(error);
    log('error', `no chunks from or to other devices: ${message}`, { code, hint });
    return undefined;
  }
  const exchange = new SiteExchange({
    id: identity.id,
    peers,
    slots,
    directory: settings.data,
    gateways,
    admission,
    known: await KnownPeers.open(settings.data, { files, log }),
  });
  const sources = () => exchange.sources();
  trust.useNearby(new NearbySources({ sources, timestampVersion: () => trust.timestampVersion, log }));
  await exchange.start(stateFile.current.slots);
  return exchange;
}

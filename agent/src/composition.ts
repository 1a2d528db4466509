import { join } from 'node:path';
import { readFileBounded, setAside } from '@sitecast/shared/durable';
import { describeError } from '@sitecast/shared/command';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type JoinToken, readJoinToken } from '@sitecast/shared/fleet';
import type { Identity } from '@sitecast/shared/identity';
import { DEFAULT_TRUST_LIMITS } from '@sitecast/shared/trust';
import { UpdateAgent } from './update/agent.ts';
import { type AgentParts, Confirmation } from './update/parts.ts';
import { StateChangeLogger } from './reports/state-change-logger.ts';
import { Reporter } from './reports/reporter.ts';
import { SlotWatch } from './update/slot-watch.ts';
import { StatusBoard } from './state/status-board.ts';
import { Admission } from './peers/admission.ts';
import { serveHook } from './peers/serve-hook.ts';
import { SiteExchange } from './peers/site-exchange.ts';
import type {
  AgentClock,
  BootControl,
  Gateway,
  Log,
  RunCommand,
  SitePeers,
  Slot,
  SlotName,
} from './ports.ts';
import type { PeerSettings, RunSettings } from './settings.ts';
import { Delivery } from './reports/delivery.ts';
import { Gateways } from './upstream/gateways.ts';
import { Membership } from './upstream/membership.ts';
import { Trust, type TrustStart } from './upstream/trust.ts';
import { wishedName } from './upstream/wished-name.ts';
import { clearDataDirectory } from './state/data-directory.ts';
import type { DurableFiles } from './state/durable-files.ts';
import { STATUS_FILE } from './state/status.ts';
import { StateFile } from './state/state-file.ts';
import { Outbox } from './reports/outbox.ts';
import { FILE_NAME as OUTBOX_FILE } from './reports/outbox-file.ts';

/** While the machine boots or proves itself, nobody is to be served. */
const BUSY_STATES: ReadonlySet<string> = new Set(['rebooting', 'confirming']);

/** What the outside of an agent is made of: `main` knows the adapters. */
export interface AgentPorts {
  identity: Identity;
  clock: AgentClock;
  slots: Readonly<Record<SlotName, Slot>>;
  boot: BootControl;
  run: RunCommand;
  gateways: [Gateway, ...Gateway[]];
  files: DurableFiles;
  log: Log;
  /** Fires when this process is asked to end. */
  stop: AbortSignal;
  /** Opens this device to its peers; undefined: it has none. */
  startPeers: ((settings: PeerSettings, ports: PeerPorts) => Promise<SitePeers>) | undefined;
}

/** What the exchange with peers asks of the agent. */
interface PeerPorts {
  /** This device's signed assignment, as bytes. */
  credential: () => Uint8Array | undefined;
  mayServe: (id: string, credential: Uint8Array) => boolean;
  isBusy: () => boolean;
}

/** Opens a data directory, which the caller owns, and puts the agent together. */
export async function openAgent(
  settings: RunSettings,
  surroundings: AgentPorts,
): Promise<{ agent: UpdateAgent; parts: AgentParts }> {
  const { identity, clock, files, stop } = surroundings;
  await clearDataDirectory(settings.data, surroundings.log);
  const now = () => clock.now();
  const gateways = new Gateways(surroundings.gateways, now);
  const token = await readJoinToken(settings, {
    kind: 'device',
    hasBegun: () => Trust.hasBegun(settings.data),
    warn: message => surroundings.log('warn', message),
  });
  const start = await trustStart(settings, token);
  const trust = await Trust.open(settings.data, gateways, { start, now, signal: stop });
  const stateFile = await StateFile.open(settings.data, files);
  const outbox = await openOutbox(settings.data, surroundings);
  if (outbox.foundWrong) {
    const { events, unreadable } = outbox.foundWrong;
    const data = { reports: events.length, unreadable };
    surroundings.log('warn', 'what was reported is told again in a new chain: its file was not right', data);
  }
  const { product, hardware } = settings;
  const wish = await wishedName(settings, message => surroundings.log('warn', message));
  const about = { product, hardware, wish, token: token?.pair };
  const membership = new Membership({ gateways, identity, stateFile, ...about });
  const slotWatch = new SlotWatch({ slots: surroundings.slots, stateFile });
  const status = openStatus(settings, surroundings, { trust, stateFile, outbox, slotWatch, wish });
  const stateChanges = new StateChangeLogger(surroundings.log);
  const reporter = new Reporter(outbox, clock, stateChanges, () => reportFacts(trust, stateFile, status));
  const delivery = new Delivery({ outbox, gateways, id: identity.id, now, log: surroundings.log });
  const exchange = await openExchange(settings, surroundings, {
    gateways,
    trust,
    membership,
    stateFile,
    status,
  });
  const { startPeers: _, files: __, ...rest } = surroundings;
  const parts: AgentParts = {
    ...rest,
    exchange,
    settings,
    gateways,
    trust,
    membership,
    stateFile,
    outbox,
    delivery,
    reporter,
    stateChanges,
    status,
    slotWatch,
    confirmation: new Confirmation(),
  };
  return { agent: new UpdateAgent(parts), parts };
}

/** What lies in the place of the reports can't be read as such. */
const NO_REPORTS: ReadonlySet<string> = new Set(['SITECAST_FILE_TOO_LARGE', 'SITECAST_NOT_A_FILE']);

/** A file of reports that the medium doesn't give back is set aside: a new chain begins. */
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
  }: Pick<AgentParts, 'trust' | 'stateFile' | 'outbox' | 'slotWatch'> & { wish: string | undefined },
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
    slots: slotWatch.shown,
    update: stateFile.current.update,
    lastFailure: stateFile.current.lastFailure,
    barred: stateFile.current.barred,
    gateways: settings.gateways,
    metadata: { timestampVersion: trust.timestampVersion, clock: trust.clock().state },
    reports: { pending: outbox.pendingCount },
  });
}

/** Without peers an update comes all the same: whatever is wrong with them is said, and the agent goes on. */
async function openExchange(
  settings: RunSettings,
  { identity, slots, run, startPeers, log, stop }: AgentPorts,
  {
    gateways,
    trust,
    membership,
    stateFile,
    status,
  }: Pick<AgentParts, 'gateways' | 'trust' | 'membership' | 'stateFile' | 'status'>,
): Promise<SiteExchange | undefined> {
  if (!settings.peers || !startPeers) return undefined;
  const admission = new Admission(trust, membership);
  const hook = serveHook(settings, run, stop);
  let peers: SitePeers;
  try {
    peers = await startPeers(settings.peers, {
      credential: () => {
        const { assignment } = stateFile.current;
        return assignment === undefined ? undefined : Buffer.from(JSON.stringify(assignment));
      },
      mayServe: (id, credential) => admission.mayServe(id, credential),
      isBusy: () => BUSY_STATES.has(status.current.state) || !hook.isWelcome,
    });
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
  });
  await exchange.start(stateFile.current.slots);
  return exchange;
}

function reportFacts(
  trust: Trust,
  stateFile: StateFile,
  status: StatusBoard,
): ReturnType<ConstructorParameters<typeof Reporter>[3]> {
  const { booted, product, hardware } = status.current;
  const release = booted && stateFile.current.slots[booted].release;
  return {
    timestampVersion: trust.timestampVersion,
    inventory: { product, hardware },
    ...(booted ? { booted: { slot: booted, ...(release ? { release } : {}) } } : {}),
  };
}

async function trustStart(
  { rootFile }: RunSettings,
  token: JoinToken | undefined,
): Promise<TrustStart | undefined> {
  if (rootFile !== undefined) {
    const bytes = await readFileBounded(rootFile, DEFAULT_TRUST_LIMITS.maxRootBytes);
    return { kind: 'root', bytes };
  }
  return token && { kind: 'hash', rootSha256: token.rootSha256 };
}

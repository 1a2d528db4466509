import { resolve } from 'node:path';
import { sleep } from '@sitecast/shared/async';
import { PatchApplier } from '@sitecast/shared/delta';
import { makeDirectory } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import type { Identity } from '@sitecast/shared/identity';
import type { DaemonLog } from '@sitecast/shared/log';
import { Connections } from '@sitecast/shared/outbound';
import { outputText } from '@sitecast/shared/text';
import { openBootControl } from './adapters/boot-controls.ts';
import { lockDirectory } from './adapters/directory-lock.ts';
import { type Failpoint, failpoints, killAt } from './adapters/failpoints.ts';
import { FileSlot } from './adapters/file-slot.ts';
import { healthChecks } from './adapters/health-checks.ts';
import { refuseImpliedBoot } from './adapters/implied-boot.ts';
import { HttpGateway } from './adapters/http-gateway.ts';
import { runCommand } from './adapters/run-command.ts';
import { checkSlots, findSlots } from './adapters/slot-checks.ts';
import { SlotLocks } from './adapters/slot-locks.ts';
import { systemClock } from './adapters/system-clock.ts';
import { type AgentPorts, type OpenAgent, openAgent } from './composition.ts';
import type { AgentClock, BootControl, Gateway, Log, SlotName } from './ports.ts';
import type { RunSettings } from './settings.ts';
import { type DurableFiles, durableFiles } from './state/durable-files.ts';
import { openOwnIdentity } from './state/own-identity.ts';
import { KnownGateways } from './upstream/known-gateways.ts';

/** Characters of the payload command's output that are logged. */
const MAX_TOLD_CHARS = 300;
/** Milliseconds that closing connections to peers may take. */
const CLOSE_PEERS_MS = 5000;

/** An agent that this process has opened, and has to close. */
export interface OwnedAgent extends OpenAgent {
  close(): Promise<void>;
}

export interface OpenContext {
  /** Whether it exchanges chunks with other devices. */
  hasPeers: boolean;
  /** Fires when this process is asked to end. */
  stop: AbortSignal;
  daemonLog: DaemonLog;
}

/**
 * Opens the agent of a data directory on this machine: takes the locks, and opens each adapter. `composition.ts` connects the rest.
 * @throws whatever keeps it from opening: SITECAST_SLOT_OVERLAP, SITECAST_DATA_IN_USE, SITECAST_GATEWAY_UNREACHABLE, ENOSPC …
 */
export async function openOwnedAgent(settings: RunSettings, context: OpenContext): Promise<OwnedAgent> {
  await checkSlots(settings);
  const data = resolve(settings.data);
  await refuseImpliedBoot({ ...settings, data }, logTo(context.daemonLog));
  await makeDirectory(data, 0o700);
  const lock = await lockDirectory(data);
  const slotLocks = new SlotLocks(logTo(context.daemonLog));
  const release = async (): Promise<void> => {
    await slotLocks.release();
    await lock.release();
  };
  try {
    return await openLocked({ ...settings, data }, { slotLocks, release }, context);
  } catch (error) {
    await release();
    throw error;
  }
}

interface Locks {
  slotLocks: SlotLocks;
  /** Releases the locks of the slots and of the data directory. */
  release(): Promise<void>;
}

async function openLocked(
  settings: RunSettings,
  locks: Locks,
  { hasPeers, stop, daemonLog }: OpenContext,
): Promise<OwnedAgent> {
  const { data } = settings;
  const log = logTo(daemonLog);
  await claimSlots(settings, locks, log);
  const identity = await openOwnIdentity(data, log);
  daemonLog.identify(() => ({ id: identity.id }));
  const points = failpoints(testFailpoint());
  const files = points.files(durableFiles);
  const clock = systemClock(settings.timeSync);
  const { A, B } = slotsOf(settings, locks);
  const slots = { A: points.slot(A), B: points.slot(B) };
  const boot = points.boot(bootControl(settings, { clock, files, log, stop }));
  const connections = await Connections.open({ ca: settings.ca, variables: process.env });
  const asking = { identity, now: () => clock.now(), maxConnections: settings.concurrency, connections };
  const known = await KnownGateways.open(data, settings.gateways);
  const toGateway = (url: string): Gateway => new HttpGateway(url, { ...asking, receiver: known.at(url) });
  const [first, ...others] = settings.gateways;
  const gateways: [Gateway, ...Gateway[]] = [toGateway(first), ...others.map(toGateway)];
  const startPeers = hasPeers ? peersOf(identity, log) : undefined;
  const opened = await openAgent(settings, {
    identity,
    clock,
    slots,
    boot,
    run: runCommand,
    applier: points.applier(new PatchApplier()),
    healthChecks: healthChecks(settings.health.checks, { data, gateways, run: runCommand }),
    gateways,
    files,
    log,
    stop,
    startPeers,
  });
  daemonLog.identify(() => ({ id: identity.id, ownName: opened.status.current.name }));
  return { ...opened, close: () => closeAll(opened, locks, log) };
}

/** Another agent may have the slots. Then this one goes on, and waits where it would write. A slot that comes later is claimed then. */
async function claimSlots({ slots }: RunSettings, { slotLocks }: Locks, log: Log): Promise<void> {
  try {
    await slotLocks.take(await findSlots([resolve(slots.A), resolve(slots.B)]));
  } catch (error) {
    if (!(error instanceof SitecastError)) throw error;
    log('warn', error.message, { code: error.code });
  }
}

function slotsOf({ slots, slotBytes, data }: RunSettings, { slotLocks }: Locks): AgentPorts['slots'] {
  const [a, b] = [resolve(slots.A), resolve(slots.B)];
  const common = { maxBytes: slotBytes, data, locks: slotLocks };
  return { A: new FileSlot(a, { ...common, other: b }), B: new FileSlot(b, { ...common, other: a }) };
}

function bootControl(
  settings: RunSettings,
  { files, ...others }: { clock: AgentClock; files: DurableFiles; log: Log; stop: AbortSignal },
): BootControl {
  const { data, boot } = settings;
  const slots = { A: resolve(settings.slots.A), B: resolve(settings.slots.B) };
  return openBootControl(boot, {
    data,
    slots,
    files,
    context: { run: runCommand, ...others },
    afterBoot: booted => startPayload(settings, booted, others),
  });
}

/** Runs the owner's command after a "boot" of the file boot control. A failure is only logged: the health check judges the slot. */
async function startPayload(
  { payloadCommand, hookTimeoutMs, slots }: RunSettings,
  booted: SlotName,
  { log, stop }: { log: Log; stop: AbortSignal },
): Promise<void> {
  if (payloadCommand === undefined) return;
  const env = { SITECAST_SLOT: resolve(slots[booted]), SITECAST_SLOT_NAME: booted };
  try {
    const { exitCode, output } = await runCommand(payloadCommand, {
      env,
      timeoutMs: hookTimeoutMs,
      signal: stop,
    });
    if (exitCode !== 0)
      log('warn', `the payload command ended with ${exitCode}: ${outputText(output, MAX_TOLD_CHARS)}`);
  } catch (error) {
    stop.throwIfAborted();
    log('warn', "the payload command can't be run", { err: error });
  }
}

/** libp2p is loaded only here, so it never is where there are no peers. */
function peersOf(identity: Identity, log: Log): AgentPorts['startPeers'] {
  return async (settings, ports) => {
    const { SiteSwarm } = await import('./adapters/site-swarm.ts');
    return SiteSwarm.start({ identity, log, ...settings, ...ports });
  };
}

/** For tests alone: the process ends at a failpoint. */
function testFailpoint(): Failpoint | undefined {
  const where = process.env.SITECAST_TEST_KILL_AT;
  return where === undefined ? undefined : killAt(where, () => process.kill(process.pid, 'SIGKILL'));
}

/** Each step is tried, even where one before it has failed. */
async function closeAll(
  { boot, status, outbox, exchange }: OpenAgent,
  locks: Locks,
  log: Log,
): Promise<void> {
  const endings = [
    // First, because this note tells a stop from a power cut.
    () => boot.stop(),
    () => status.flush(),
    () => outbox.close(),
    () => exchange && within(CLOSE_PEERS_MS, exchange.close()),
    () => locks.release(),
  ];
  for (const end of endings) {
    try {
      await end();
    } catch (error) {
      log('error', 'stopping went wrong', { err: error });
    }
  }
}

/** Waits for the work, but no longer than that. */
async function within(ms: number, work: Promise<void>): Promise<void> {
  const over = new AbortController();
  const isLate = sleep(ms, over.signal, { ref: true });
  await Promise.race([work, isLate]).finally(() => over.abort());
}

export function logTo(daemonLog: DaemonLog): Log {
  return (severity, message, data = {}) => daemonLog[severity](data, message);
}

import { join, resolve } from 'node:path';
import { sleep } from '@sitecast/shared/async';
import { describeError, runProgram } from '@sitecast/shared/command';
import { makeDirectory, readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import type { Identity } from '@sitecast/shared/identity';
import { type DaemonLog, openLog } from '@sitecast/shared/log';
import { Connections } from '@sitecast/shared/outbound';
import { outputText } from '@sitecast/shared/text';
import type { z } from 'zod';
import { CommandBootControl } from './adapters/command-boot.ts';
import { askDaemon, ControlServer } from './adapters/control-socket.ts';
import { lockDirectory } from './adapters/directory-lock.ts';
import { type Failpoint, failpoints, killAt } from './adapters/failpoints.ts';
import { FileBootControl } from './adapters/file-boot.ts';
import { FileSlot } from './adapters/file-slot.ts';
import { HttpGateway } from './adapters/http-gateway.ts';
import { runCommand } from './adapters/run-command.ts';
import { checkSlots, findSlots } from './adapters/slot-checks.ts';
import { SlotLocks } from './adapters/slot-locks.ts';
import { systemClock } from './adapters/system-clock.ts';
import type { Daemon } from './daemon.ts';
import type { AgentClock, BootControl, ControlCommand, Gateway, Log } from './ports.ts';
import { type AgentCommands, agentProgram } from './program.ts';
import type { RunSettings } from './settings.ts';
import { type AgentPorts, type OpenAgent, openAgent } from './composition.ts';
import { type DurableFiles, durableFiles } from './state/durable-files.ts';
import { openOwnIdentity } from './state/own-identity.ts';
import {
  checkResultSchema,
  cycleResultSchema,
  STATUS_FILE,
  type Status,
  statusSchema,
} from './state/status.ts';

const CONFIG_FILES = ['/etc/sitecast/agent.yaml'];
/** Characters of the payload command's output that are logged. */
const MAX_TOLD_CHARS = 300;
const MAX_STATUS_BYTES = 1024 * 1024;
const FIRST_START_RETRY_MS = 1000;
const MAX_START_RETRY_MS = 60_000;
/** Milliseconds that closing connections to peers may take. */
const CLOSE_PEERS_MS = 5000;
/** Milliseconds. A service manager kills a process that hasn't ended within about half a minute (TimeoutStopSec), which is like a power cut. */
const STOP_WITHIN_MS = 20_000;
const LINGER_MS = 1000;

/** An agent that this process has opened, and has to close. */
interface OwnedAgent extends OpenAgent {
  close(): Promise<void>;
}

interface OpenContext {
  hasPeers: boolean;
  stop: AbortSignal;
  daemonLog: DaemonLog;
}

async function openAgentIn(settings: RunSettings, context: OpenContext): Promise<OwnedAgent> {
  await checkSlots(settings);
  const data = resolve(settings.data);
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
  const toGateway = (url: string): Gateway => new HttpGateway(url, asking);
  const [first, ...others] = settings.gateways;
  const gateways: [Gateway, ...Gateway[]] = [toGateway(first), ...others.map(toGateway)];
  const startPeers = hasPeers ? peersOf(identity) : undefined;
  const opened = await openAgent(settings, {
    identity,
    clock,
    slots,
    boot,
    run: runCommand,
    gateways,
    files,
    log,
    stop,
    startPeers,
  });
  daemonLog.identify(() => ({ id: identity.id, ownName: opened.status.current.name }));
  return { ...opened, close: () => closeAll(opened, locks, log) };
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

/** libp2p is loaded only here, so it never is where there are no peers. */
function peersOf(identity: Identity): AgentPorts['startPeers'] {
  return async (settings, ports) => {
    const { SiteSwarm } = await import('./adapters/site-swarm.ts');
    return SiteSwarm.start({ identity, ...settings, ...ports });
  };
}

function bootControl(
  settings: RunSettings,
  { clock, files, log, stop }: { clock: AgentClock; files: DurableFiles; log: Log; stop: AbortSignal },
): BootControl {
  const { data, boot, payloadCommand, hookTimeoutMs, slots } = settings;
  if (boot.kind === 'command')
    return new CommandBootControl(boot.command, { run: runCommand, clock, log, stop });
  return new FileBootControl(boot.path ?? join(data, 'boot.json'), {
    firstSlot: boot.firstSlot,
    files,
    // The health command says whether the slot is good.
    afterBoot: async booted => {
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
    },
  });
}

/** For tests alone: the process ends at a failpoint. */
function testFailpoint(): Failpoint | undefined {
  const where = process.env.SITECAST_TEST_KILL_AT;
  return where === undefined ? undefined : killAt(where, () => process.kill(process.pid, 'SIGKILL'));
}

function logTo(daemonLog: DaemonLog): Log {
  return (severity, message, data = {}) => daemonLog[severity](data, message);
}

const openDaemonLog = (settings: RunSettings): DaemonLog => openLog({ role: 'agent', ...settings.log });

async function run(settings: RunSettings): Promise<void> {
  const daemonLog = openDaemonLog(settings);
  const log = logTo(daemonLog);
  const stop = stopSignal();
  // A failure that no code waits for, as in a library, must not end the agent: the device couldn't be reached any more.
  process.on('unhandledRejection', error => log('error', 'something unforeseen went wrong', { err: error }));
  const opened = await openPatiently(settings, { hasPeers: true, stop, daemonLog });
  if (!opened) return;
  endInTime(opened, { stop, log });
  let control: ControlServer | undefined;
  try {
    control = await listenForCommands(settings, opened.daemon, log);
    log('info', `device ${opened.identity.id}`, { gateways: settings.gateways });
    await opened.daemon.run(stop);
  } finally {
    await control?.close();
    await opened.close();
  }
  // Whatever still keeps the process alive isn't needed.
  setTimeout(() => process.exit(), LINGER_MS).unref();
}

/** Fires with the first SIGINT or SIGTERM. A second one ends the process at once. */
function stopSignal(): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
  return stop.signal;
}

/** Every wait ends by itself when the agent has to stop. This is for a disk, or a library, that doesn't answer any more. */
function endInTime({ boot }: OpenAgent, { stop, log }: { stop: AbortSignal; log: Log }): void {
  const giveUp = () => {
    log('error', `it has not stopped in ${STOP_WITHIN_MS / 1000} s, and is ended`);
    void boot.stop().finally(() => process.exit(1));
  };
  stop.addEventListener('abort', () => setTimeout(giveUp, STOP_WITHIN_MS).unref(), { once: true });
}

/** An agent works without the socket as well, which can't be made on a full disk. */
async function listenForCommands(
  settings: RunSettings,
  daemon: Daemon,
  log: Log,
): Promise<ControlServer | undefined> {
  try {
    return await ControlServer.listen(resolve(settings.data), command => daemon.answer(command));
  } catch (error) {
    if (!isSystemError(error)) throw error;
    log('error', 'no commands can be taken', { err: error });
    return undefined;
  }
}

/**
 * Opens the agent, and waits for what may pass: a gateway that is away before the first contact, or a full disk. Only wrong settings end
 * the agent.
 * @returns undefined when asked to stop
 */
async function openPatiently(settings: RunSettings, context: OpenContext): Promise<OwnedAgent | undefined> {
  const { stop, daemonLog } = context;
  const clock = systemClock(settings.timeSync);
  for (let waitMs = FIRST_START_RETRY_MS; ; waitMs = Math.min(2 * waitMs, MAX_START_RETRY_MS)) {
    try {
      return await openAgentIn(settings, context);
    } catch (error) {
      if (stop.aborted) return undefined;
      if (!mayPass(error)) throw error;
      const isAway = error instanceof SitecastError && error.kind === 'unreachable';
      const { code, message, hint = isAway ? AWAY_HINT : undefined } = describeError(error);
      const what = isAway ? 'no gateway to begin with yet' : 'it can not begin yet';
      daemonLog.warn({ code, hint, waitMs }, `${what}: ${message}`);
      await clock.sleep(waitMs, stop);
      if (stop.aborted) return undefined;
    }
  }
}

const AWAY_HINT = 'Is --gateway right, and does the gateway run?';

const PASSING = ['ENOSPC', 'EDQUOT', 'EROFS', 'EIO', 'EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN'];

function mayPass(error: unknown): boolean {
  if (isSystemError(error, ...PASSING)) return true;
  return error instanceof SitecastError && (error.kind === 'unreachable' || error.kind === 'noSpace');
}

/** Asks the daemon. Where none runs, this process opens the agent itself. */
async function through<T>(
  data: string,
  ask: {
    command: ControlCommand;
    schema: z.ZodType<T>;
    settings: () => RunSettings;
    /** Whether the work may fetch an image. */
    hasPeers?: boolean;
  },
  act: (opened: OwnedAgent, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const told = await askDaemon(resolve(data), ask.command);
  if (told) return ask.schema.parse(told.result);
  const { hasPeers = false } = ask;
  const done = new AbortController();
  const asked = stopSignal();
  const stop = AbortSignal.any([asked, done.signal]);
  let opened: OwnedAgent | undefined;
  try {
    const settings = ask.settings();
    opened = await openAgentIn(settings, { hasPeers, stop, daemonLog: openDaemonLog(settings) });
    return await act(opened, stop);
  } catch (error) {
    if (asked.aborted) throw interrupted();
    throw error;
  } finally {
    // Ends whatever still waits: this process doesn't need it.
    done.abort();
    await opened?.close();
  }
}

function interrupted(): SitecastError {
  return new SitecastError('failed', 'SITECAST_INTERRUPTED', 'it was asked to stop', {
    hint: 'what was begun goes on with the next run',
  });
}

const commands: AgentCommands = {
  run,
  check: (data, settings) =>
    through(data, { command: 'check', schema: checkResultSchema, settings }, async ({ agent }, signal) => {
      await agent.start();
      return agent.check(signal);
    }),
  update: (data, settings) =>
    through(
      data,
      { command: 'update', schema: cycleResultSchema, settings, hasPeers: true },
      async ({ agent }, signal) => {
        await agent.start();
        return agent.cycle(signal);
      },
    ),
  confirm: (data, settings) =>
    through(
      data,
      { command: 'confirm', schema: cycleResultSchema, settings },
      async ({ agent, confirmation, status }, signal) => {
        confirmation.give();
        await agent.start();
        await agent.deliver(signal);
        return { state: status.current.state };
      },
    ),
  status: readStatus,
};

async function readStatus(data: string): Promise<{ status: Status; isAlive: boolean }> {
  const told = await askDaemon(resolve(data), 'status').catch((error: unknown) => {
    // Another user's daemon, say. Its file may be readable all the same.
    if (isSystemError(error)) return undefined;
    throw error;
  });
  if (told) return { status: statusSchema.parse(told.result), isAlive: true };
  try {
    const text = (await readFileBounded(join(data, STATUS_FILE), MAX_STATUS_BYTES)).toString('utf8');
    return { status: statusSchema.parse(JSON.parse(text)), isAlive: false };
  } catch (cause) {
    throw new SitecastError('notFound', 'SITECAST_STATUS_MISSING', `there is no status in ${data}`, {
      hint: 'has `sitecast-agent run` been started with this --data?',
      cause,
    });
  }
}

process.exitCode = await runProgram(
  agentProgram(commands, text => process.stdout.write(text)),
  process.argv.slice(2),
  { configFiles: CONFIG_FILES },
);

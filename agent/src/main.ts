import { readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describeError, endProcessSoon, runProgram } from '@sitecast/shared/command';
import { readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { type DaemonLog, openLog } from '@sitecast/shared/log';
import type { z } from 'zod';
import { askDaemon, ControlServer } from './adapters/control-socket.ts';
import { systemClock } from './adapters/system-clock.ts';
import { beWatched } from './adapters/watchdogs.ts';
import type { Daemon } from './daemon.ts';
import { NO_HEALTH_CHECK } from './doctor/settings-check.ts';
import { isHealthChecked } from './health-settings.ts';
import { daemonSettingsSchema, demandSame, type OptionHashes } from './given-options.ts';
import { examine } from './examine.ts';
import { logTo, type OpenContext, openOwnedAgent, type OwnedAgent } from './open.ts';
import type { ControlCommand, Log } from './ports.ts';
import { type AgentCommands, agentProgram, type CommandRequest } from './program.ts';
import type { RunSettings } from './settings.ts';
import {
  checkResultSchema,
  cycleResultSchema,
  STATUS_FILE,
  type Status,
  statusSchema,
} from './state/status.ts';

// The `sitecast-agent` command: `run` is the daemon. The others ask the daemon of the data directory, and where none runs, this process
// opens the agent itself.

const CONFIG_FILES = ['/etc/sitecast/agent.yaml'];
const MAX_STATUS_BYTES = 1024 * 1024;
/** Milliseconds between two tries to open the agent, doubled each time. */
const FIRST_START_RETRY_MS = 1000;
const MAX_START_RETRY_MS = 60_000;
/** Milliseconds. A service manager kills a process that hasn't ended within about half a minute (TimeoutStopSec), which is like a power cut. */
const STOP_WITHIN_MS = 20_000;
const AWAY_HINT = 'Is --gateway right, and does the gateway run?';
/** Errors of the system that pass: a full or failing disk, too many open files, too little memory. */
const PASSING = ['ENOSPC', 'EDQUOT', 'EROFS', 'EIO', 'EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN'];

const commands: AgentCommands = {
  run,
  check: request =>
    askDaemonOrOpen(request, { command: 'check', schema: checkResultSchema }, async ({ agent }, signal) => {
      await agent.start();
      return agent.check(signal);
    }),
  update: request =>
    askDaemonOrOpen(
      request,
      { command: 'update', schema: cycleResultSchema, hasPeers: true },
      async ({ agent }, signal) => {
        await agent.start();
        return agent.cycle(signal);
      },
    ),
  confirm: request =>
    askDaemonOrOpen(
      request,
      { command: 'confirm', schema: cycleResultSchema },
      async ({ agent, confirmation, status }, signal) => {
        confirmation.give();
        await agent.start();
        await agent.deliver(signal);
        return { state: status.current.state };
      },
    ),
  status: readStatus,
  doctor: (settings, options) => examine(settings, { ...options, stop: stopSignal() }),
};

async function run(settings: RunSettings, options: OptionHashes): Promise<void> {
  const daemonLog = openDaemonLog(settings);
  const log = logTo(daemonLog);
  const stop = stopSignal();
  // A failure that no code waits for, as in a library, must not end the agent: the device couldn't be reached any more.
  process.on('unhandledRejection', error => log('error', 'something unforeseen went wrong', { err: error }));
  const watched = await beWatched(settings, log);
  try {
    await runOpened(settings, options, { stop, log, daemonLog, watchdog: watched.watchdog });
  } finally {
    await watched.end();
  }
  endProcessSoon();
}

async function runOpened(
  settings: RunSettings,
  options: OptionHashes,
  {
    stop,
    log,
    daemonLog,
    watchdog,
  }: { stop: AbortSignal; log: Log; daemonLog: DaemonLog; watchdog: Status['watchdog'] },
): Promise<void> {
  const { health, hooks, confirmWithinMs } = settings;
  if (!isHealthChecked({ health, healthCommand: hooks.health, confirmWithinMs }))
    log('warn', NO_HEALTH_CHECK);
  const opened = await openPatiently(settings, { hasPeers: true, stop, daemonLog });
  if (!opened) return;
  if (watchdog) opened.status.set({ watchdog });
  endInTime(opened, { stop, log });
  let control: ControlServer | undefined;
  const endMetrics = await tellOwnMetrics(settings, opened, log);
  try {
    control = await listenForCommands(settings, command => answer(opened.daemon, options, command), log);
    log('info', `device ${opened.identity.id}`, { gateways: settings.gateways });
    await opened.daemon.run(stop);
  } finally {
    await endMetrics();
    await control?.close();
    await opened.close();
  }
}

/** What it takes is loaded only where somebody asks for metrics. @returns ends it */
async function tellOwnMetrics(
  { metrics: { file, listen } }: RunSettings,
  { status }: OwnedAgent,
  log: Log,
): Promise<() => Promise<void>> {
  if (file === undefined && listen === undefined) return async () => {};
  const { statusMetrics, tellMetrics } = await import('./metrics/index.ts');
  return tellMetrics(
    statusMetrics(() => status.current),
    { file, listen },
    log,
  );
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
      return await openOwnedAgent(settings, context);
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

function mayPass(error: unknown): boolean {
  if (isSystemError(error, ...PASSING)) return true;
  return error instanceof SitecastError && (error.kind === 'unreachable' || error.kind === 'noSpace');
}

/** Fires with the first SIGINT or SIGTERM. A second one ends the process at once. */
function stopSignal(): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
  return stop.signal;
}

/**
 * Ends the process where the agent doesn't stop in time. Every wait of its own ends by itself, but a disk or a library may not answer
 * any more.
 */
function endInTime({ boot }: OwnedAgent, { stop, log }: { stop: AbortSignal; log: Log }): void {
  const giveUp = () => {
    log('error', `it has not stopped in ${STOP_WITHIN_MS / 1000} s, and is ended`);
    void boot.stop().finally(() => process.exit(1));
  };
  stop.addEventListener('abort', () => setTimeout(giveUp, STOP_WITHIN_MS).unref(), { once: true });
}

/** @returns undefined where the socket can't be made, as on a full disk: the agent works without it */
async function listenForCommands(
  settings: RunSettings,
  handle: (command: ControlCommand) => Promise<unknown>,
  log: Log,
): Promise<ControlServer | undefined> {
  try {
    return await ControlServer.listen(resolve(settings.data), handle);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    log('error', 'no commands can be taken', { err: error });
    return undefined;
  }
}

async function answer(daemon: Daemon, options: OptionHashes, command: ControlCommand): Promise<unknown> {
  return command === 'settings' ? { options } : daemon.answer(command);
}

/**
 * Asks the daemon. Where none runs, this process opens the agent itself.
 * @throws SITECAST_DAEMON_SETTINGS where the daemon doesn't go by the options that were given
 */
async function askDaemonOrOpen<T>(
  { data, settings: settingsOf, given }: CommandRequest,
  ask: {
    command: ControlCommand;
    schema: z.ZodType<T>;
    /** Whether the work may fetch an image. */
    hasPeers?: boolean;
  },
  act: (opened: OwnedAgent, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const directory = resolve(data);
  if (Object.keys(given).length > 0) await demandSameOptions(directory, given);
  const answered = await askDaemon(directory, ask.command);
  if (answered) return ask.schema.parse(answered.result);
  const { hasPeers = false } = ask;
  const done = new AbortController();
  const asked = stopSignal();
  const stop = AbortSignal.any([asked, done.signal]);
  let opened: OwnedAgent | undefined;
  try {
    const settings = await settingsFor(directory, settingsOf);
    opened = await openOwnedAgent(settings, { hasPeers, stop, daemonLog: openDaemonLog(settings) });
    return await act(opened, stop);
  } catch (error) {
    if (asked.aborted) throw interrupted();
    throw error;
  } finally {
    // Ends whatever still waits.
    done.abort();
    await opened?.close();
  }
}

/** @throws as `settingsOf`; where nothing is in the directory, the error says that: it may be mistyped */
async function settingsFor(directory: string, settingsOf: () => RunSettings): Promise<RunSettings> {
  const isNew = await isNewDirectory(directory);
  try {
    const settings = settingsOf();
    const hint = 'is --data right?';
    if (isNew)
      openDaemonLog(settings).warn({ hint }, `nothing is in ${directory}: a new device begins there`);
    return settings;
  } catch (error) {
    if (!isNew || !(error instanceof SitecastError) || error.code !== 'SITECAST_SETTING_MISSING') throw error;
    const { kind, code, message, data } = error;
    const what = `nothing is in ${directory}, no agent has run there; and to begin one, ${message}`;
    throw new SitecastError(kind, code, what, { hint: 'is --data right?', data, cause: error });
  }
}

async function isNewDirectory(directory: string): Promise<boolean> {
  try {
    return (await readdir(directory)).length === 0;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return true;
    throw error;
  }
}

async function demandSameOptions(directory: string, given: OptionHashes): Promise<void> {
  let ofDaemon: OptionHashes | undefined;
  try {
    const answered = await askDaemon(directory, 'settings');
    if (!answered) return;
    ofDaemon = daemonSettingsSchema.parse(answered.result).options;
  } catch (error) {
    // One of an earlier version doesn't know that command.
    if (!(error instanceof SitecastError) || error.code !== 'SITECAST_DAEMON_REFUSED') throw error;
  }
  demandSame(given, ofDaemon, directory);
}

function interrupted(): SitecastError {
  return new SitecastError('failed', 'SITECAST_INTERRUPTED', 'it was asked to stop', {
    hint: 'what was begun goes on with the next run',
  });
}

async function readStatus(data: string): Promise<{ status: Status; isAlive: boolean }> {
  const answer = await askDaemon(resolve(data), 'status').catch((error: unknown) => {
    // The daemon may be another user's. Its file may be readable all the same.
    if (isSystemError(error)) return undefined;
    throw error;
  });
  if (answer) return { status: statusSchema.parse(answer.result), isAlive: true };
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

const openDaemonLog = (settings: RunSettings): DaemonLog => openLog({ role: 'agent', ...settings.log });

process.exitCode = await runProgram(
  agentProgram(commands, text => process.stdout.write(text)),
  process.argv.slice(2),
  { configFiles: CONFIG_FILES },
);

import { join, resolve } from 'node:path';
import { plainJson, runProgram } from '@sitecast/shared/command';
import { makeDirectory, readFileBounded } from '@sitecast/shared/durable';
import { isSystemError, SitecastError } from '@sitecast/shared/errors';
import { Identity } from '@sitecast/shared/identity';
import { cutTextStart } from '@sitecast/shared/text';
import { pino } from 'pino';
import type { z } from 'zod';
import { CommandBootControl } from './adapters/command-boot.ts';
import { askDaemon, type ControlCommand, ControlServer } from './adapters/control-socket.ts';
import { DirectoryLock } from './adapters/directory-lock.ts';
import { FileBootControl } from './adapters/file-boot.ts';
import { FileSlot } from './adapters/file-slot.ts';
import { HttpGateway } from './adapters/http-gateway.ts';
import { runCommand } from './adapters/run-command.ts';
import { checkSlots } from './adapters/slot-checks.ts';
import { systemClock } from './adapters/system-clock.ts';
import type { UpdateAgent } from './cycle/agent.ts';
import { Daemon } from './cycle/daemon.ts';
import type { AgentParts } from './cycle/parts.ts';
import { killPoints } from './faults.ts';
import type { BootControl, Gateway, Log, PassPoint } from './ports.ts';
import { type AgentCommands, agentProgram } from './program.ts';
import type { RunSettings } from './settings.ts';
import { openAgent, type Surroundings } from './start.ts';
import { checkResultSchema, restSchema, STATUS_FILE, type Status, statusSchema } from './state/status.ts';

const CONFIG_FILES = ['/etc/sitecast/agent.yaml'];
/** Of what the payload command printed. */
const MAX_TOLD_CHARS = 300;
const MAX_STATUS_BYTES = 1024 * 1024;
const FIRST_START_RETRY_MS = 1000;
const MAX_START_RETRY_MS = 60_000;

interface OpenAgent {
  agent: UpdateAgent;
  parts: AgentParts;
  close(): Promise<void>;
}

async function openAgentIn(
  settings: RunSettings,
  { hasPeers, signal }: { hasPeers: boolean; signal?: AbortSignal },
): Promise<OpenAgent> {
  await checkSlots(settings);
  const data = resolve(settings.data);
  await makeDirectory(data, 0o700);
  const lock = await DirectoryLock.take(data);
  const identity = await Identity.open(data);
  const log = logTo(settings.logLevel);
  const passPoint = testPoints();
  const clock = systemClock(settings.timeSync);
  const slots = slotsOf(settings, data);
  const boot = bootControl(settings, data, passPoint, log);
  const toGateway = (url: string): Gateway =>
    new HttpGateway(url, { identity, now: () => clock.now(), maxConnections: settings.concurrency });
  const [first, ...others] = settings.gateways;
  const gateways: [Gateway, ...Gateway[]] = [toGateway(first), ...others.map(toGateway)];
  const startPeers = hasPeers ? peersOf(identity) : undefined;
  const surroundings = {
    identity,
    clock,
    slots,
    boot,
    run: runCommand,
    gateways,
    passPoint,
    log,
    startPeers,
  };
  let opened: Awaited<ReturnType<typeof openAgent>>;
  try {
    opened = await openAgent({ ...settings, data }, surroundings, signal);
  } catch (error) {
    await boot.stop();
    await lock.release();
    throw error;
  }
  const { agent, parts } = opened;
  const close = async () => {
    await parts.exchange?.close();
    await boot.stop();
    await parts.status.flush();
    await parts.outbox.close();
    await lock.release();
  };
  return { agent, parts, close };
}

function slotsOf({ slots, slotBytes }: RunSettings, data: string): Surroundings['slots'] {
  const [a, b] = [resolve(slots.A), resolve(slots.B)];
  const common = { maxBytes: slotBytes, data };
  return { A: new FileSlot(a, { ...common, other: b }), B: new FileSlot(b, { ...common, other: a }) };
}

/** libp2p is loaded here, and nowhere else: where there are no peers, it never is. */
function peersOf(identity: Identity): Surroundings['startPeers'] {
  return async (settings, ports) => {
    const { SiteSwarm } = await import('./adapters/site-swarm.ts');
    return SiteSwarm.start({ identity, ...settings, ...ports });
  };
}

function bootControl(settings: RunSettings, data: string, passPoint: PassPoint, log: Log): BootControl {
  const { boot, payloadCommand, hookTimeoutMs, slots } = settings;
  if (boot.kind === 'command') return new CommandBootControl(boot.command, runCommand);
  return new FileBootControl(boot.path ?? join(data, 'boot.json'), {
    firstSlot: boot.firstSlot,
    passPoint,
    afterBoot: async booted => {
      if (payloadCommand === undefined) return;
      const env = { SITECAST_SLOT: resolve(slots[booted]), SITECAST_SLOT_NAME: booted };
      const { exitCode, output } = await runCommand(payloadCommand, { env, timeoutMs: hookTimeoutMs });
      // Whether the slot is any good, the health command says.
      if (exitCode !== 0)
        log('warn', `the payload command ended with ${exitCode}: ${cutTextStart(output, MAX_TOLD_CHARS)}`);
    },
  });
}

/** For tests alone: see faults.ts. */
function testPoints(): PassPoint {
  const at = process.env.SITECAST_TEST_KILL_AT;
  if (at === undefined) return () => {};
  return killPoints(() => process.kill(process.pid, 'SIGKILL'), Number(at));
}

function logTo(level: string): Log {
  const logger = pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, hooks: { streamWrite: plainJson } },
    pino.destination(2),
  );
  return (severity, message, data = {}) => logger[severity](data, message);
}

async function run(settings: RunSettings): Promise<void> {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stop.abort());
  const opened = await openPatiently(settings, stop.signal);
  if (!opened) return;
  const { agent, parts } = opened;
  const daemon = new Daemon(agent, parts, settings);
  const control = await ControlServer.listen(resolve(settings.data), command =>
    answer(command, daemon, parts, stop.signal),
  );
  parts.log('info', `device ${parts.identity.id}`, { gateways: settings.gateways });
  try {
    await daemon.run(stop.signal);
  } finally {
    await control.close();
    await opened.close();
  }
}

/** Before its very first contact a device can't begin; a daemon waits for that. @returns undefined when asked to stop */
async function openPatiently(settings: RunSettings, signal: AbortSignal): Promise<OpenAgent | undefined> {
  const log = logTo(settings.logLevel);
  const clock = systemClock(settings.timeSync);
  for (let waitMs = FIRST_START_RETRY_MS; ; waitMs = Math.min(2 * waitMs, MAX_START_RETRY_MS)) {
    try {
      return await openAgentIn(settings, { hasPeers: true, signal });
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof SitecastError) || error.kind !== 'unreachable') throw error;
      log('warn', `no gateway to begin with yet: ${error.message}`, { code: error.code, waitMs });
      await clock.sleep(waitMs, signal);
      if (signal.aborted) return undefined;
    }
  }
}

async function answer(
  command: ControlCommand,
  daemon: Daemon,
  parts: AgentParts,
  signal: AbortSignal,
): Promise<unknown> {
  switch (command) {
    case 'status':
      return parts.status.current;
    case 'check':
      return daemon.check(signal);
    case 'update':
      return daemon.update();
    default:
      parts.confirmation.give();
      return { state: 'confirming' };
  }
}

/** Asks the daemon; where there's none, opens the agent in this process. */
async function through<T>(
  data: string,
  ask: {
    command: ControlCommand;
    schema: z.ZodType<T>;
    settings: () => RunSettings;
    /** Whether the work may fetch an image. */
    hasPeers?: boolean;
  },
  act: (opened: OpenAgent, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const told = await askDaemon(resolve(data), ask.command);
  if (told) return ask.schema.parse(told.result);
  const stop = new AbortController();
  const { hasPeers = false } = ask;
  const opened = await openAgentIn(ask.settings(), { hasPeers, signal: stop.signal });
  try {
    return await act(opened, stop.signal);
  } finally {
    await opened.close();
  }
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
      { command: 'update', schema: restSchema, settings, hasPeers: true },
      async ({ agent }, signal) => {
        await agent.start();
        return agent.cycle(signal);
      },
    ),
  confirm: (data, settings) =>
    through(data, { command: 'confirm', schema: restSchema, settings }, async ({ agent, parts }, signal) => {
      parts.confirmation.give();
      await agent.start();
      await agent.deliver(signal);
      return { state: parts.status.current.state };
    }),
  status: readStatus,
};

async function readStatus(data: string): Promise<{ status: Status; isAlive: boolean }> {
  const told = await askDaemon(resolve(data), 'status').catch((error: unknown) => {
    // Another user's daemon, say: its file may be readable all the same.
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

import {
  CA_OPTION,
  parseBoundedInteger,
  parseBytes,
  parseDurationMs,
  parsePeerListen,
  parseRate,
  type SettingsCommand,
} from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { addLogOptions, type LogSettings, logSettingsOf } from '@sitecast/shared/log';
import { nameSchema, versionSchema } from '@sitecast/shared/release';
import { InvalidArgumentError, Option } from 'commander';
import { addBootOptions, type BootSettings, bootSettings } from './boot-settings.ts';
import { addHealthOptions, type HealthSettings, healthSettings, isHealthChecked } from './health-settings.ts';
import { addMetricsOptions, type MetricsSettings, metricsSettings } from './metrics/settings.ts';
import { HOOK_NAMES, type HookName } from './update/hooks.ts';
import type { DeltaMode } from './update/deltas.ts';
import type { SlotName } from './ports.ts';

const MAX_CONCURRENCY = 64;
const DEFAULT_CONCURRENCY = 8;
/** Sources decide how many are on their way; the bound is for memory. */
const DEFAULT_CONCURRENCY_WITH_PEERS = 32;
const MAX_GATEWAYS = 16;
const MIN_POLL_MS = 1000;
const DEFAULT_MAX_APPLY_MS = 15 * 60_000;
/** At a lower rate a chunk of 1 MiB would take longer than its requester's deadline allows. */
const MIN_UPLOAD_BYTES_PER_S = 125_000;

/** All settings of `run`, checked. */
export interface RunSettings {
  data: string;
  gateways: [string, ...string[]];
  token: string | undefined;
  tokenFile: string | undefined;
  rootFile: string | undefined;
  /** PEM of additional authorities to trust. */
  ca: string | undefined;
  product: string;
  hardware: string;
  /** The name that the device asks for; `{}` in it stands for what the file holds. */
  name: string | undefined;
  nameFile: string | undefined;
  slots: Record<SlotName, string>;
  slotBytes: number | undefined;
  boot: BootSettings;
  payloadCommand: string | undefined;
  factoryRelease: { counter: number; version: string } | undefined;
  hooks: Partial<Record<HookName, string>>;
  hookTimeoutMs: number;
  healthTimeoutMs: number;
  health: HealthSettings;
  metrics: MetricsSettings;
  /** A hardware watchdog that is fed while the agent is well. */
  watchdog: string | undefined;
  confirmWithinMs: number | undefined;
  minActivationIntervalMs: number;
  pollMs: number;
  startJitterMs: number;
  maxFetchBytes: number | undefined;
  deltas: DeltaMode;
  /** What gateways may send for one release, bytes: chunks, patches, recipes and indexes; undefined: no bound. */
  maxBytes: number | undefined;
  /** CPU time that applying patches may take for one release, all starts of the agent together. */
  maxApplyMs: number;
  /** Chunks on their way at once: from gateways alone, and where peers give some as well. */
  concurrency: number;
  concurrencyWithPeers: number;
  timeSync: 'auto' | 'yes' | 'no';
  log: LogSettings;
  /** Undefined: no chunks from or to other devices. */
  peers: PeerSettings | undefined;
}

export interface PeerSettings {
  /** A multiaddress; undefined: the usual port, or any free port where that is taken. */
  listen: string | undefined;
  isDiscovering: boolean;
  /** Bytes a second of all uploads together; undefined: no bound. */
  maxUploadBytesPerS: number | undefined;
}

/** What to trust, and the token to enrol with. */
function addTrustOptions(command: SettingsCommand): void {
  command
    .option('--token <token>', 'join token')
    .option('--token-file <file>', 'file that holds the join token')
    .option('--root <file>', "the operator's first root metadata, instead of a token's hash of it");
}

/** What the device is, and the name that it asks for. */
function addIdentityOptions(command: SettingsCommand): void {
  command
    .option('--product <name>', 'what this device is')
    .option('--hardware <name>', 'the board it runs on')
    .option(
      '--name <name>',
      'what it wants to be called, such as cam-0042; {} stands for what --name-file holds, as in cam-{}',
    )
    .option(
      '--name-file <file>',
      'holds that, or a part of it, such as /sys/firmware/devicetree/base/serial-number',
    );
}

/** What an update may cost. */
function addCostOptions(command: SettingsCommand): SettingsCommand {
  return command
    .option('--max-fetch-bytes <size>', 'an update that would fetch more, uncompressed, waits', parseBytes)
    .option(
      '--max-bytes <size>',
      'what gateways may send for one release, compressed, failed tries and restarts included (what peers give is free); then it waits',
      parseBytes,
    )
    .addOption(choice('--deltas <which>', 'whether patches are used', ['on', 'signed-only', 'off'], 'on'))
    .addOption(
      duration(
        '--max-apply-time <duration>',
        'CPU time for the patches of one release, restarts included; then chunks are fetched',
        '15m',
      ),
    );
}

/** The options of all commands that can act on the device. */
export function addRunOptions(command: SettingsCommand): SettingsCommand {
  command
    .option('--data <dir>', "the agent's own directory, outside of both slots")
    .option('--gateway <url...>', 'gateways (or the origin), in order of preference')
    .option(...CA_OPTION);
  addTrustOptions(command);
  addIdentityOptions(command);
  command
    .option('--slot-a <path>', 'slot A: a block device (by partuuid or partlabel, not by label) or a file')
    .option('--slot-b <path>', 'slot B; whichever of them does not run must not be mounted')
    .option('--slot-bytes <size>', 'what a file slot holds at most, such as 512MiB', parseBytes);
  addBootOptions(command);
  command
    .option('--factory-release <counter:version>', 'what the first slot holds from the factory', parseRelease)
    .option('--payload-command <command>', 'restarts what the slot holds, at each boot of `file`')
    .option('--health-command <command>', 'exit code 0: the new slot is good ($SITECAST_SLOT is its path)')
    .addOption(duration('--health-timeout <duration>', 'what it may take, and each built-in check', '5m'));
  addHealthOptions(command);
  command.option('--watchdog <device>', 'hardware watchdog (/dev/watchdog) to feed while the agent is well');
  for (const name of HOOK_NAMES) {
    if (name !== 'health' && name !== 'serve')
      command.option(`--hook-${name} <command>`, `runs at ${name}; exit code 75: not now`);
  }
  command
    .addOption(duration('--hook-timeout <duration>', 'what a hook may take', '60s'))
    .option(
      '--confirm-within <duration>',
      'a healthy slot must be confirmed by `sitecast-agent confirm`',
      parseDurationMs,
    )
    .addOption(duration('--min-activation-interval <duration>', 'least time between two activations', '0s'))
    .addOption(duration('--poll <duration>', 'how often to look, where no gateway tells of changes', '60s'))
    .addOption(duration('--start-jitter <duration>', 'the first look comes at random within that', '0s'));
  addMetricsOptions(command);
  addCostOptions(command)
    .addOption(concurrencyOption())
    .option('--no-peers', 'takes chunks from gateways alone, and hands none out')
    .addOption(
      new Option(
        '--peer-listen <address>',
        'where other devices of the site reach this one (default: 0.0.0.0:7403, or any free port)',
      ).argParser(parsePeerListen),
    )
    .option('--no-mdns', 'looks for no peers by multicast DNS, beside those that gateways name')
    .option(
      '--max-upload <rate>',
      'what is handed out at most, such as 10Mbit (a second)',
      parseRate(MIN_UPLOAD_BYTES_PER_S),
    )
    .option(
      '--hook-serve <command>',
      'asked now and then while others want chunks; another exit code than 0: none are handed out',
    )
    .addOption(
      choice('--time-sync <how>', 'whether the clock may be relied upon', ['auto', 'yes', 'no'], 'auto'),
    );
  return addLogOptions(command);
}

function concurrencyOption(): Option {
  const preset = '8 from gateways alone; with peers as many as there are sources, 32 at most';
  return new Option('--concurrency <n>', `chunks on their way at once (default: ${preset})`).argParser(
    parseBoundedInteger(1, MAX_CONCURRENCY),
  );
}

function duration(flags: string, description: string, preset: string): Option {
  return new Option(flags, description).argParser(parseDurationMs).default(parseDurationMs(preset), preset);
}

function choice(flags: string, description: string, choices: string[], preset: string): Option {
  return new Option(flags, description).choices(choices).default(preset);
}

function concurrencyOf(given: number | undefined): Pick<RunSettings, 'concurrency' | 'concurrencyWithPeers'> {
  return {
    concurrency: given ?? DEFAULT_CONCURRENCY,
    concurrencyWithPeers: given ?? DEFAULT_CONCURRENCY_WITH_PEERS,
  };
}

/** @throws SITECAST_SETTING_MISSING, SITECAST_SETTING_INVALID */
export function runSettings(options: Record<string, unknown>): RunSettings {
  const values = new Values(options);
  const [firstGateway, ...otherGateways] = values.texts('gateway').map(checkUrl);
  if (firstGateway === undefined || otherGateways.length >= MAX_GATEWAYS) throw missing('gateway');
  const hooks: Partial<Record<HookName, string>> = {};
  for (const name of HOOK_NAMES) {
    const command = values.text(name === 'health' ? 'healthCommand' : camelCase(`hook-${name}`));
    if (command !== undefined) hooks[name] = command;
  }
  return {
    data: values.needed('data'),
    gateways: [firstGateway, ...otherGateways],
    token: values.text('token'),
    tokenFile: values.text('tokenFile'),
    rootFile: values.text('root'),
    ca: values.filled('ca'),
    product: checkName('product', values.needed('product')),
    hardware: checkName('hardware', values.needed('hardware')),
    name: values.filled('name'),
    nameFile: values.filled('nameFile'),
    slots: { A: values.needed('slotA'), B: values.needed('slotB') },
    slotBytes: values.number('slotBytes'),
    boot: bootSettings(values),
    payloadCommand: values.text('payloadCommand'),
    factoryRelease: isRelease(options.factoryRelease) ? options.factoryRelease : undefined,
    hooks,
    hookTimeoutMs: values.number('hookTimeout') ?? 60_000,
    healthTimeoutMs: values.number('healthTimeout') ?? 5 * 60_000,
    health: healthSettings(values),
    metrics: metricsSettings(options),
    watchdog: values.filled('watchdog'),
    confirmWithinMs: values.number('confirmWithin'),
    minActivationIntervalMs: values.number('minActivationInterval') ?? 0,
    pollMs: Math.max(MIN_POLL_MS, values.number('poll') ?? 60_000),
    startJitterMs: values.number('startJitter') ?? 0,
    maxFetchBytes: values.number('maxFetchBytes'),
    deltas: deltaModeOf(values.text('deltas')),
    maxBytes: values.number('maxBytes'),
    maxApplyMs: values.number('maxApplyTime') ?? DEFAULT_MAX_APPLY_MS,
    ...concurrencyOf(values.number('concurrency')),
    timeSync: timeSyncOf(values.text('timeSync')),
    log: logSettingsOf(options),
    peers: peerSettings(options, values),
  };
}

function peerSettings(options: Record<string, unknown>, values: Values): PeerSettings | undefined {
  if (options.peers === false) return undefined;
  return {
    listen: values.text('peerListen'),
    isDiscovering: options.mdns !== false,
    maxUploadBytesPerS: values.number('maxUpload'),
  };
}

function deltaModeOf(text: string | undefined): DeltaMode {
  return text === 'off' || text === 'signed-only' ? text : 'on';
}

function timeSyncOf(text: string | undefined): RunSettings['timeSync'] {
  return text === 'yes' || text === 'no' ? text : 'auto';
}

/** What `doctor` needs to know. */
export interface DoctorSettings {
  data: string;
  slots: Record<SlotName, string>;
  boot: BootSettings;
  isHealthChecked: boolean;
  watchdog: string | undefined;
}

export function addDoctorOptions(command: SettingsCommand): SettingsCommand {
  command
    .option('--data <dir>', "the agent's own directory")
    .option('--slot-a <path>', 'slot A')
    .option('--slot-b <path>', 'slot B')
    .option('--payload-command <command>', 'as with `run`: with it boot control `file` is meant')
    .option('--health-command <command>', 'as with `run`: whether there is one')
    .option('--health-check <check...>', 'as with `run`: whether there are any')
    .option('--confirm-within <duration>', 'as with `run`: whether there is one', parseDurationMs)
    .option('--watchdog <device>', 'as with `run`: whether it is there. It is not opened');
  addBootOptions(command, { isKindNeeded: false });
  return command;
}

/** @throws SITECAST_SETTING_MISSING */
export function doctorSettings(options: Record<string, unknown>): DoctorSettings {
  const values = new Values(options);
  return {
    data: values.needed('data'),
    slots: { A: values.needed('slotA'), B: values.needed('slotB') },
    boot: bootSettings(values),
    isHealthChecked: isHealthChecked({
      health: healthSettings(values),
      healthCommand: values.filled('healthCommand'),
      confirmWithinMs: values.number('confirmWithin'),
    }),
    watchdog: values.filled('watchdog'),
  };
}

/** Commander's options, which it types as anything. */
class Values {
  readonly #options: Record<string, unknown>;

  constructor(options: Record<string, unknown>) {
    this.#options = options;
  }

  text(name: string): string | undefined {
    const value = this.#options[name];
    return typeof value === 'string' ? value : undefined;
  }

  /** An empty environment variable counts as none. */
  filled(name: string): string | undefined {
    const value = this.text(name);
    return value === '' ? undefined : value;
  }

  needed(name: string): string {
    const value = this.filled(name);
    if (value === undefined) throw missing(name);
    return value;
  }

  number(name: string): number | undefined {
    const value = this.#options[name];
    return typeof value === 'number' ? value : undefined;
  }

  texts(name: string): string[] {
    const value = this.#options[name];
    const all: unknown[] = Array.isArray(value) ? value : [value];
    // In the environment, several values are separated by spaces or commas.
    return all.flatMap(item => (typeof item === 'string' ? item.split(/[\s,]+/).filter(Boolean) : []));
  }
}

function parseRelease(text: string): { counter: number; version: string } {
  const match = /^([1-9]\d{0,15}):(.+)$/.exec(text);
  const version = versionSchema.safeParse(match?.[2]);
  if (!match || !version.success || !Number.isSafeInteger(Number(match[1])))
    throw new InvalidArgumentError('expected COUNTER:VERSION such as 7:2.0.1');
  return { counter: Number(match[1]), version: version.data };
}

function isRelease(value: unknown): value is { counter: number; version: string } {
  return typeof value === 'object' && value !== null && 'counter' in value && 'version' in value;
}

function checkUrl(text: string): string {
  if (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)) return text;
  throw invalid('gateway', `${JSON.stringify(text)} is no http or https URL`);
}

function checkName(setting: string, name: string): string {
  const parsed = nameSchema.safeParse(name);
  if (parsed.success) return parsed.data;
  throw invalid(setting, parsed.error.issues[0]?.message ?? 'not a name');
}

function camelCase(name: string): string {
  return name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function kebabCase(name: string): string {
  return name.replaceAll(/[A-Z]/g, letter => `-${letter.toLowerCase()}`);
}

function missing(name: string): SitecastError {
  const flag = kebabCase(name);
  return new SitecastError('badInput', 'SITECAST_SETTING_MISSING', `--${flag} is needed`, {
    hint: `give it as a flag, as SITECAST_${flag.replaceAll('-', '_').toUpperCase()}, or as \`${flag}: …\` in the configuration file`,
  });
}

function invalid(name: string, why: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_SETTING_INVALID', `--${name}: ${why}`);
}

import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PatchApplier } from '@sitecast/shared/delta';
import type { Identity } from '@sitecast/shared/identity';
import type { UpdateAgent } from '../update/agent.ts';
import type {
  AgentClock,
  BootControl,
  Gateway,
  HealthCheck,
  Log,
  SitePeers,
  Slot,
  SlotName,
} from '../ports.ts';
import type { RunSettings } from '../settings.ts';
import { type AgentPorts, type OpenAgent, openAgent } from '../composition.ts';
import { durableFiles } from '../state/durable-files.ts';
import { openOwnIdentity } from '../state/own-identity.ts';
import type { CheckResult, CycleResult } from '../state/status.ts';
import { type Failpoint, failpoints } from '../adapters/failpoints.ts';
import { FileBootControl } from '../adapters/file-boot.ts';
import { FileSlot } from '../adapters/file-slot.ts';
import { healthChecks } from '../adapters/health-checks.ts';
import { HttpGateway } from '../adapters/http-gateway.ts';
import { runCommand } from '../adapters/run-command.ts';
import { SiteSwarm } from '../adapters/site-swarm.ts';
import { systemClock } from '../adapters/system-clock.ts';
import { KnownGateways } from '../upstream/known-gateways.ts';

export interface DeviceChanges {
  settings?: Partial<RunSettings>;
  clockOffsetMs?: number;
  /** Its waits are shorter by that factor. */
  haste?: number;
  isSynchronised?: boolean | undefined;
  monotonicMs?: () => number;
  slots?: Partial<Record<SlotName, Slot>>;
  failpoint?: Failpoint;
  /** Beside those of the settings. */
  healthChecks?: readonly HealthCheck[];
  /** Instead of the file adapter. */
  boot?: BootControl;
  /** Fires to ask the process to end. */
  stop?: AbortSignal;
  log?: Log;
  /** The other devices of the site. Give `settings.peers` as well. */
  peers?: SitePeers;
  /** Opens it to the other devices of the site over real sockets. */
  isOpenToPeers?: boolean;
  /** False: the test starts the agent itself. */
  isStarted?: boolean;
}

/** A device in a temporary directory, for tests: all adapters are the real ones, in this process. */
export class TestDevice {
  readonly directory: string;
  readonly #settings: RunSettings;
  #opened: OpenAgent | undefined;

  private constructor(directory: string, settings: RunSettings) {
    this.directory = directory;
    this.#settings = settings;
  }

  /** @param urls of its gateways */
  static async create(urls: readonly string[], rootBytes: Uint8Array): Promise<TestDevice> {
    const directory = await mkdtemp(join(tmpdir(), 'sitecast-device-'));
    await writeFile(join(directory, 'root.json'), rootBytes);
    return TestDevice.in(directory, urls);
  }

  /** The device that lies in the directory, with `root.json` in it at least. */
  static in(directory: string, urls: readonly string[]): TestDevice {
    const [first = '', ...others] = urls;
    return new TestDevice(directory, {
      data: join(directory, 'data'),
      gateways: [first, ...others],
      token: undefined,
      tokenFile: undefined,
      rootFile: join(directory, 'root.json'),
      ca: undefined,
      product: 'camera',
      hardware: 'rpi4',
      name: undefined,
      nameFile: undefined,
      slots: { A: join(directory, 'a.img'), B: join(directory, 'b.img') },
      slotBytes: undefined,
      boot: { kind: 'file', path: undefined, firstSlot: 'A' },
      payloadCommand: undefined,
      factoryRelease: undefined,
      hooks: {},
      hookTimeoutMs: 5000,
      healthTimeoutMs: 5000,
      health: {
        checks: { isGatewayChecked: false, memoryBytes: undefined, diskBytes: undefined, units: [] },
        retries: 0,
        retryPauseMs: 10_000,
        confirmAfterMs: 0,
      },
      metrics: { file: undefined, listen: undefined },
      watchdog: undefined,
      confirmWithinMs: undefined,
      minActivationIntervalMs: 0,
      pollMs: 1000,
      startJitterMs: 0,
      maxFetchBytes: undefined,
      deltas: 'on',
      maxBytes: undefined,
      maxApplyMs: 60_000,
      concurrency: 4,
      concurrencyWithPeers: 4,
      timeSync: 'auto',
      peers: undefined,
      log: { level: 'error' },
    });
  }

  /** The same device, as it lies on the disk, in a directory of its own and with other gateways. */
  static async copyOf(device: TestDevice, urls: readonly string[]): Promise<TestDevice> {
    const copy = await TestDevice.create(urls, await readFile(join(device.directory, 'root.json')));
    await cp(device.directory, copy.directory, { recursive: true });
    return copy;
  }

  get parts(): OpenAgent {
    if (!this.#opened) throw new Error('not open');
    return this.#opened;
  }

  get agent(): UpdateAgent {
    if (!this.#opened) throw new Error('not open');
    return this.#opened.agent;
  }

  get id(): string {
    return this.parts.identity.id;
  }

  /** Starts the agent, as a process would: the boot is looked at, nothing else. */
  async open(changes: DeviceChanges = {}): Promise<void> {
    const settings = { ...this.#settings, ...peerSettingsOf(changes), ...changes.settings };
    const log: Log = changes.log ?? (() => {});
    const identity = await openOwnIdentity(settings.data, log);
    const points = failpoints(changes.failpoint);
    const files = points.files(durableFiles);
    const clock = clockOf(changes);
    const gateways = await gatewaysOf(settings, { identity, clock });
    const boot = points.boot(
      changes.boot ??
        new FileBootControl(join(settings.data, 'boot.json'), {
          firstSlot: 'A',
          afterBoot: async () => {},
          files,
        }),
    );
    const { A, B } = settings.slots;
    const common = { maxBytes: settings.slotBytes, data: settings.data };
    const slots = {
      A: points.slot(changes.slots?.A ?? new FileSlot(A, { ...common, other: B })),
      B: points.slot(changes.slots?.B ?? new FileSlot(B, { ...common, other: A })),
    };
    const startPeers: AgentPorts['startPeers'] = async (peerSettings, ports) =>
      changes.peers ?? SiteSwarm.start({ identity, log, ...peerSettings, ...ports });
    const hasPeers = changes.peers !== undefined || changes.isOpenToPeers === true;
    this.#opened = await openAgent(settings, {
      identity,
      clock,
      slots,
      boot,
      run: runCommand,
      applier: points.applier(new PatchApplier()),
      healthChecks: [
        ...healthChecks(settings.health.checks, { data: settings.data, gateways, run: runCommand }),
        ...(changes.healthChecks ?? []),
      ],
      gateways,
      files,
      log,
      monotonicMs: changes.monotonicMs,
      stop: changes.stop ?? new AbortController().signal,
      startPeers: hasPeers ? startPeers : undefined,
    });
    if (changes.isStarted !== false) await this.#opened.agent.start();
  }

  async cycle(signal?: AbortSignal): Promise<CycleResult> {
    if (!this.#opened) await this.open();
    if (!this.#opened) throw new Error('not open');
    return this.#opened.agent.cycle(signal ?? new AbortController().signal);
  }

  async check(): Promise<CheckResult> {
    if (!this.#opened) await this.open();
    if (!this.#opened) throw new Error('not open');
    return this.#opened.agent.check(new AbortController().signal);
  }

  /** Ends the agent, cleanly or (`isCut`) as by a power cut. */
  async close({ isCut = false } = {}): Promise<void> {
    const opened = this.#opened;
    this.#opened = undefined;
    if (!opened) return;
    if (!isCut) await opened.boot.stop();
    await opened.exchange?.close();
    await opened.outbox.close();
    await opened.status.flush();
  }

  async slot(name: SlotName): Promise<Buffer> {
    return readFile(this.#settings.slots[name]);
  }

  async remove(): Promise<void> {
    await this.close({ isCut: true });
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** At a port of this machine, without multicast DNS; the settings of a test count more. */
function peerSettingsOf({ isOpenToPeers }: DeviceChanges): Partial<RunSettings> {
  const listen = '/ip4/127.0.0.1/tcp/0';
  return isOpenToPeers === true
    ? { peers: { listen, isDiscovering: false, maxUploadBytesPerS: undefined } }
    : {};
}

/** Looks at `changes` each time: tests set clocks while a device runs. */
function clockOf(changes: DeviceChanges): AgentClock {
  const system = systemClock('auto');
  return {
    ...system,
    now: () => Date.now() + (changes.clockOffsetMs ?? 0),
    isSynchronised: async () => changes.isSynchronised,
    sleep: (ms, signal) => system.sleep(ms / (changes.haste ?? 1), signal),
  };
}

async function gatewaysOf(
  { data, gateways: [first, ...others], concurrency }: RunSettings,
  { identity, clock }: { identity: Identity; clock: AgentClock },
): Promise<[Gateway, ...Gateway[]]> {
  const known = await KnownGateways.open(data, [first, ...others]);
  const toGateway = (url: string): Gateway =>
    new HttpGateway(url, {
      identity,
      receiver: known.at(url),
      now: () => clock.now(),
      maxConnections: concurrency,
    });
  return [toGateway(first), ...others.map(toGateway)];
}

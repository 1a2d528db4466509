import type { ChunkId, ChunkIndex, ChunkStore } from '@sitecast/shared/content';
import type { LogFields } from '@sitecast/shared/log';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import type { RepositorySource } from '@sitecast/shared/upstream';
import type { SlotPlace } from './state/agent-state.ts';

/** The two slots of a device, each a place for an image. */
export const SLOT_NAMES = ['A', 'B'] as const;
export type SlotName = (typeof SLOT_NAMES)[number];

export const otherSlot = (slot: SlotName): SlotName => (slot === 'A' ? 'B' : 'A');

/** Wall time, and whether the system keeps it right. */
export interface AgentClock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Whether the system says that its clock is synchronized; undefined where it says nothing. */
  isSynchronised(): Promise<boolean | undefined>;
  /** Resolves after that time, or at once when the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** A place for an image: a file, a block device, a volume. Errors are SITECAST_SLOT_…, each naming the path. */
export interface Slot {
  readonly path: string;
  /**
   * Finds where the slot is, without opening it.
   * @param remembered where it was found before
   * @throws SITECAST_SLOT_MISSING where there is nothing and no file may be created: the update waits for the slot
   */
  locate(remembered: SlotPlace | undefined): Promise<SlotPlace>;
  /**
   * Checks that the slot exists, that nothing else uses it, and that its first bytes can be read. A booted slot is in use.
   * @throws SITECAST_SLOT_MISSING, SITECAST_SLOT_BUSY, and what else reading throws
   */
  look(remembered: SlotPlace | undefined, options: { isBooted: boolean }): Promise<void>;
  /** Bytes that the slot can hold; undefined where only the file system bounds it. */
  capacityBytes(): Promise<number | undefined>;
  /** @returns undefined where the slot doesn't exist yet */
  openForReading(): Promise<SlotReader | undefined>;
  /** Reads from the medium, past the page cache if the system allows that. */
  openForReadBack(): Promise<SlotReader>;
  /**
   * Opens the slot exclusively for this agent, as far as the system can grant that, and creates a file if there is none yet. Dangers of
   * overwriting something else are checked on the opened slot, not on its path.
   * @throws SITECAST_SLOT_MISSING, SITECAST_SLOT_BUSY, SITECAST_SLOT_OVERLAP: the update waits for the slot, and nothing was written
   */
  openForWriting(): Promise<SlotWriter>;
}

export interface SlotReader {
  /** False where the page cache may have answered instead of the medium. */
  readonly isDirect: boolean;
  /**
   * Feeds `[offset, offset + lengthBytes)` to `consume`, in order, in pieces that stay valid until `consume` returns.
   * @returns false if the slot ends before
   */
  read(offset: number, lengthBytes: number, consume: (piece: Uint8Array) => void): Promise<boolean>;
  /**
   * Reads the current bytes, even while a writer is open. Several reads may run at the same time.
   * @returns false if the slot ends before `into` is full
   */
  readInto(offset: number, into: Uint8Array): Promise<boolean>;
  close(): Promise<void>;
}

export interface SlotWriter {
  /**
   * Makes a file at least that long, without using space for it.
   * @returns the offset from which on the slot was empty before and reads as zeros; infinite for a block device
   */
  extend(lengthBytes: number): Promise<number>;
  /** The bytes may be reused when this has resolved. */
  write(bytes: Uint8Array, offset: number): Promise<void>;
  /** Cuts a file at that length, then makes everything durable. */
  finish(lengthBytes: number): Promise<void>;
  close(): Promise<void>;
}

/** The boot loader's state. */
export interface BootState {
  booted: SlotName;
  /** The slot that the next boot runs, on trial or not. */
  next: SlotName;
  /** New with each boot: distinguishes a restart of the agent from a restart of the machine. */
  bootId: string;
  /** Set if the control's own notes were lost and are rebuilt from its copy or from the agent's state: what was wrong. */
  lost?: string;
}

/** What the agent itself knows of the boot, for a control whose own notes were lost. */
export interface RememberedBoot {
  /** The slots that may run, the most likely first; empty where nothing is known. */
  slots: readonly SlotName[];
  /** The slot that the boot loader was told, or is being told, to try; undefined where no trial is under way. */
  onTrial: SlotName | undefined;
}

/** The abilities of a boot loader with its boot control. */
export interface LoaderCapabilities {
  /** The most boots that it can count for a slot on trial. */
  maxTries: number;
  /**
   * Whether a boot is counted before the slot gets control, so that one that hangs (and is reset by a watchdog) counts. Undefined: not
   * known.
   */
  countsHangs: boolean | undefined;
  /** Whether after a power cut each change is either complete or not made. Undefined: not known. */
  isAtomic: boolean | undefined;
}

/**
 * The boot loader, with operations that the variables of GRUB and U-Boot can express: an order of the two slots, the tries left for the
 * first of them, and which are good. Whatever a power cut leaves of a change, boots run a slot that is good or on trial; the change may be
 * repeated. All adapters pass `adapters/boot-conformance.test.ts`.
 */
export interface BootControl {
  capabilities(): Promise<LoaderCapabilities>;
  /**
   * Called when the agent starts, and again if it failed. The same start is never counted twice.
   */
  start(remembered?: RememberedBoot): Promise<BootState>;
  read(): Promise<BootState>;
  /** From now on no boot may choose this slot. It isn't the booted one. */
  markBad(slot: SlotName): Promise<void>;
  /**
   * The next `tries` boots run this slot. Unless it is confirmed by then, later boots run the other one again.
   * @throws SITECAST_BOOT_REFUSED where `tries` is more than the boot loader can count
   */
  setTrial(slot: SlotName, tries: number): Promise<void>;
  /** The booted slot is good, and its boots aren't counted any more. */
  confirm(slot: SlotName): Promise<void>;
  /** All boots run this slot, which is good. */
  setNext(slot: SlotName): Promise<void>;
  /** Asks for a boot, which may end this process. If it doesn't, `read` tells what runs. */
  reboot(): Promise<void>;
  /** Called when the agent stops but the machine doesn't: the agent's next start isn't a boot. */
  stop(): Promise<void>;
}

export interface CommandOutcome {
  /** Null if a signal ended the command. */
  exitCode: number | null;
  isTimedOut: boolean;
  /** The end of its output on both streams, for messages. */
  output: string;
  /** The end of its standard output: a program's answer is read from it. */
  stdout: string;
  /** The end of its standard error: warnings, where the command succeeded. */
  stderr: string;
}

interface CommandOptions {
  env: Record<string, string>;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  /** If it ends with 0 or is aborted, processes that it has started go on. */
  mayLeave?: boolean;
}

/**
 * Runs a command line of the device's owner in a shell, in a process group of its own that is ended as a whole.
 * @throws the signal's reason, once the group has ended; the system's error where no shell can be started
 */
export type RunCommand = (command: string, options: CommandOptions) => Promise<CommandOutcome>;

/** What health checks have noted before an update. Kept across the boot. */
export interface HealthNotes {
  isGatewayReached?: boolean | undefined;
  /** How many network interfaces there are, without loopback. */
  interfaces?: number | undefined;
}

/** A built-in check of the running slot. */
export interface HealthCheck {
  readonly name: string;
  /** Notes the state before the update. Never throws. */
  readonly note?: (signal: AbortSignal) => Promise<HealthNotes>;
  /** @param signal aborted when it takes too long, or the agent should end. @returns what is wrong */
  readonly check: (notes: HealthNotes, signal: AbortSignal) => Promise<string | undefined>;
}

export interface JsonAnswer {
  status: number;
  body: unknown;
}

/** One gateway, or an origin: both speak the same protocol. Its unsigned statements aren't trusted. */
export interface Gateway {
  readonly url: string;
  readonly metadata: MetadataFetcher;
  readonly targets: MetadataFetcher;
  readonly chunks: ChunkStore;
  /**
   * How long the frame of a chunk is, according to the gateway.
   * @returns undefined where it doesn't say
   * @throws SITECAST_STORE_UNREACHABLE; the reason of `signal`
   */
  frameBytes(id: ChunkId, signal: AbortSignal): Promise<number | undefined>;
  /** @param path below the gateway's URL. @throws SITECAST_GATEWAY_UNREACHABLE */
  getJson(path: string, signal?: AbortSignal): Promise<JsonAnswer>;
  /** Signed by this device; repeated with the gateway's time if the device's own is refused. @throws like `getJson` */
  postJson(path: string, body: unknown, signal?: AbortSignal, timeoutMs?: number): Promise<JsonAnswer>;
  /** Resolves when the repository has changed or the gateway stops waiting. @throws like `getJson` */
  waitForChange(waitMs: number, signal?: AbortSignal): Promise<'changed' | 'same'>;
}

/** A machine of the site that a gateway or multicast DNS has announced. Its addresses aren't verified. */
export interface FoundPeer {
  id: string;
  /** Multiaddresses, each with the id at its end. */
  addresses: readonly string[];
}

/** An image as the devices of a site know it from signed metadata. */
export interface SiteImage {
  /** SHA-256 of its chunk index's bytes: it identifies the image among devices. */
  id: Uint8Array;
  index: ChunkIndex;
}

/** The chunks of an image that this device serves, by their numbers in the index. Peers are told of each new one. */
export interface HeldImage {
  /** How many chunks the device has. */
  readonly count: number;
  add(at: number): void;
  /** Called when nothing more is fetched: the image is complete, or no longer wanted. */
  settle(): void;
  /** Stops serving the image. */
  end(): void;
}

export interface PeerFetch {
  /** The gateways as one store, unverified. */
  gateway: ChunkStore;
  /** Chunks in memory at one time. */
  concurrency: number;
  signal: AbortSignal;
  /** Gives up when the gateway has refused a chunk that no peer holds for this long, in ms; undefined: waits for a peer. */
  refusedMs?: number | undefined;
  /** Called with each verified chunk. */
  deliver: (at: number, plain: Uint8Array) => Promise<void>;
  /** Called when a peer misbehaves, for example by sending wrong bytes. It isn't asked any more. */
  onBan: (source: string, code: string) => void;
}

/** Since the start, in plain bytes. */
export interface PeerCounts {
  /** How many devices were announced lately. */
  known: number;
  receivedBytes: number;
  sentBytes: number;
  /**
   * How many connections and streams were ended or refused because others needed their places. A high number means that this device is
   * flooded.
   */
  dropped: number;
  /** Why other devices can't reach this one now. */
  trouble?: string;
}

/** What the exchange with peers needs from the agent. */
export interface PeerPorts {
  /** This device's signed assignment, as bytes. */
  credential: () => Uint8Array | undefined;
  mayServe: (id: string, credential: Uint8Array) => boolean;
  isBusy: () => boolean;
  files: HeldFiles;
  /** Called when other devices can reach this one now, and could not before. */
  onReachable: () => void;
}

/** Signed files that this device has, and serves to other devices of its site. */
export interface HeldFiles {
  /** @param path below /metadata/. @returns undefined where it is missing */
  metadata(path: string): Promise<Uint8Array | undefined>;
  /** @param path below /targets/; unverified. @returns undefined where it is missing */
  target(path: string): Promise<Uint8Array | undefined>;
}

/** The other devices of the site, with which chunks are exchanged. */
export interface SitePeers {
  /** Addresses at which others reach this device: multiaddresses, each with its id at the end. */
  readonly addresses: readonly string[];
  readonly counts: PeerCounts;
  /** @param chunks of that image; the store must return only verified ones */
  hold(image: SiteImage, chunks: ChunkStore): HeldImage;
  /** Called when these peers were announced. */
  note(peers: readonly FoundPeer[]): void;
  /** Called with peers that gateways have named before this start: for times without a gateway. */
  remember(peers: readonly FoundPeer[]): void;
  /**
   * Fetches chunks from peers and gateways together, in the order that is best for the site.
   * @param wanted numbers of chunks, of an image that is held
   * @throws SITECAST_STORE_UNREACHABLE when nothing has arrived for a minute; errors of `deliver`; the signal's reason
   */
  fetch(image: SiteImage, wanted: Iterable<number>, options: PeerFetch): Promise<void>;
  /** Machines that may have the repository's files, in a partly random order. */
  sources(): readonly RepositorySource[];
  /** Devices that a gateway has named, and how many others multicast DNS has found. */
  knownDevices(): { named: readonly string[]; found: number };
  /** Whether a device that a gateway has named answers at this moment, and neither reboots nor has a slot on trial. */
  isUp(id: string, signal: AbortSignal): Promise<boolean>;
  /** Stops serving a device that was revoked. */
  drop(id: string): void;
  close(): Promise<void>;
}

/** Makes the bytes of one window of a delta, in bounded memory and time. */
export interface WindowApplier {
  /** Names of the installed encoders that recipes may need. */
  readonly encoders: readonly string[];
  /** Memory for a base range and the whole chunks that it touches: at most MAX_BASE_MEMORY_BYTES. Each call gives the same memory. */
  baseMemory(lengthBytes: number): Uint8Array;
  /** Memory for a patch: at most MAX_PATCH_BYTES. Each call gives the same memory. */
  patchMemory(lengthBytes: number): Uint8Array;
  /**
   * @param base the window's whole base range, preferably in `baseMemory`, which may be overwritten
   * @param maxMs the CPU time that it may take
   * @returns exactly `targetLength` bytes, valid until the next patch is applied or the applier closed; the caller compares them with the
   * signed index
   * @throws SITECAST_PATCH_… where the patch is wrong, or takes too much memory or time; `data.cpuMs` is the time taken; the signal's
   * reason
   */
  apply(request: {
    patch: Uint8Array;
    base: Uint8Array;
    targetLength: number;
    maxMs: number;
    signal?: AbortSignal;
  }): Promise<{ bytes: Uint8Array; cpuMs: number }>;
  close(): Promise<void>;
}

/** Commands that other processes of the device's owner may send to a running daemon. */
export const CONTROL_COMMANDS = ['check', 'update', 'confirm', 'status', 'settings'] as const;
export type ControlCommand = (typeof CONTROL_COMMANDS)[number];

/** Writes a line to the device's journal. An error that the message doesn't name should be in `data.err`. */
export type Log = (level: 'info' | 'warn' | 'error', message: string, data?: LogFields) => void;

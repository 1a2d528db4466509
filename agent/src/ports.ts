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
  /** True if the system says that its clock is synchronised; undefined where it says nothing. */
  isSynchronised(): Promise<boolean | undefined>;
  /** Resolves after that time, or at once when the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** A place for an image: a file, a block device, a volume. Errors are SITECAST_SLOT_…, each naming the path. */
export interface Slot {
  readonly path: string;
  /**
   * Finds where the slot lies, without opening it.
   * @param remembered where it was found before
   * @throws SITECAST_SLOT_MISSING where nothing is there and nothing may be made: the slot has to be waited for
   */
  locate(remembered: SlotPlace | undefined): Promise<SlotPlace>;
  /**
   * Checks that the slot is there, that nothing else uses it, and that its first bytes can be read. A booted slot is in use.
   * @throws SITECAST_SLOT_MISSING, SITECAST_SLOT_BUSY, and what else reading throws
   */
  look(remembered: SlotPlace | undefined, options: { isBooted: boolean }): Promise<void>;
  /** Bytes that the slot can hold; undefined where only the file system bounds it. */
  capacityBytes(): Promise<number | undefined>;
  /** @returns undefined where nothing is there yet */
  openForReading(): Promise<SlotReader | undefined>;
  /** Reads what the medium holds, past the page cache where the system allows that. */
  openForReadBack(): Promise<SlotReader>;
  /**
   * Opens the slot for this agent alone, as far as the system can grant that, and makes a file where none is yet. Whatever could make
   * it overwrite something else is checked at the opened slot, not at its path.
   * @throws SITECAST_SLOT_MISSING, SITECAST_SLOT_BUSY, SITECAST_SLOT_OVERLAP: the slot has to be waited for, and nothing was written
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
   * Reads what is there now, even while a writer is open. Several reads may run at one time.
   * @returns false if the slot ends before `into` is full
   */
  readInto(offset: number, into: Uint8Array): Promise<boolean>;
  close(): Promise<void>;
}

export interface SlotWriter {
  /**
   * Makes a file at least that long, without using space for it.
   * @returns from which offset on the slot was empty before, and reads as zeros; infinite where it is a block device
   */
  extend(lengthBytes: number): Promise<number>;
  /** The bytes may be reused once this has resolved. */
  write(bytes: Uint8Array, offset: number): Promise<void>;
  /** Ends a file after that many bytes, then makes everything durable. */
  finish(lengthBytes: number): Promise<void>;
  close(): Promise<void>;
}

/** What the boot loader says. */
export interface BootState {
  booted: SlotName;
  /** The slot that the next boot runs, on trial or not. */
  next: SlotName;
  /** New with each boot: tells a restart of the agent from a restart of the machine. */
  bootId: string;
  /** The trial that is under way, if the loader's state tells: how many more boots it gives the slot. */
  trial?: { slot: SlotName; triesLeft: number };
  /** Set where the control's own notes were lost, and are rebuilt from its copy or from the agent's state: what was wrong. */
  lost?: string;
}

/** What the agent itself knows of the boot: for a control whose own notes were lost. */
export interface RememberedBoot {
  /** The slots that may run, the most likely first; empty where nothing is known. */
  slots: readonly SlotName[];
  /** The slot that the loader was told to try, or is being told; undefined where no trial is under way. */
  onTrial: SlotName | undefined;
}

/** What a boot loader, with its boot control, can do. */
export interface LoaderCapabilities {
  /** Boots that it counts for a slot on trial, at most. Undefined: not known. */
  maxTries: number | undefined;
  /** A boot is counted before the slot gets control, so one that hangs (and is reset by a watchdog) is counted. Undefined: not known. */
  countsHangs: boolean | undefined;
  /** After a power cut each change is there as a whole, or not at all. Undefined: not known. */
  isAtomic: boolean | undefined;
}

/**
 * The boot loader, behind verbs that the variables of GRUB and U-Boot can express: an order of two slots, tries left for the first of
 * them, and which are good. Whatever a power cut leaves of a change, boots run a slot that is good or on trial; the change may be asked
 * for again. All adapters pass `adapters/boot-conformance.test.ts`.
 */
export interface BootControl {
  capabilities(): Promise<LoaderCapabilities>;
  /**
   * Called when the agent starts, and again where it failed. The same start is never counted twice.
   */
  start(remembered?: RememberedBoot): Promise<BootState>;
  read(): Promise<BootState>;
  /** From now on no boot may choose this slot. It isn't the booted one. */
  markBad(slot: SlotName): Promise<void>;
  /**
   * The next `tries` boots run this slot. Unless it is confirmed by then, later boots run the other one again.
   * @throws SITECAST_BOOT_REFUSED where `tries` is more than the loader counts
   */
  setTrial(slot: SlotName, tries: number): Promise<void>;
  /** The booted slot is good, and its boots aren't counted any more. */
  confirm(slot: SlotName): Promise<void>;
  /** All boots run this slot, which is good. */
  setNext(slot: SlotName): Promise<void>;
  /** Asks for a boot, which may end this process. Afterwards `read` says what runs. */
  reboot(): Promise<void>;
  /** The agent stops, and the machine doesn't: its next start isn't a boot. */
  stop(): Promise<void>;
}

export interface CommandOutcome {
  /** Null if a signal ended the command. */
  exitCode: number | null;
  isTimedOut: boolean;
  /** The end of its output on both streams, for people to read. */
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
  /** Processes that it started go on after it has ended with 0, and when the signal fires. */
  mayLeave?: boolean;
}

/**
 * Runs a command line of the device's owner in a shell, in a process group of its own that is ended as a whole.
 * @throws the signal's reason, once the group has ended; the system's error where no shell can be started
 */
export type RunCommand = (command: string, options: CommandOptions) => Promise<CommandOutcome>;

/** What health checks have noted before an update. They are kept across the boot. */
export interface HealthNotes {
  isGatewayReached?: boolean | undefined;
  /** Network interfaces but for loopback. */
  interfaces?: number | undefined;
}

/** A built-in check of the slot that runs. */
export interface HealthCheck {
  readonly name: string;
  /** Before the update. Never throws. */
  readonly note?: (signal: AbortSignal) => Promise<HealthNotes>;
  /** @param signal fires when it has taken too long, or the agent is to end. @returns what is wrong */
  readonly check: (notes: HealthNotes, signal: AbortSignal) => Promise<string | undefined>;
}

export interface JsonAnswer {
  status: number;
  body: unknown;
}

/** One gateway, or an origin: both speak the same protocol. Nothing that it says unsigned is believed. */
export interface Gateway {
  readonly url: string;
  readonly metadata: MetadataFetcher;
  readonly targets: MetadataFetcher;
  readonly chunks: ChunkStore;
  /**
   * How long the frame of a chunk is, as it says.
   * @returns undefined where it doesn't say
   * @throws SITECAST_STORE_UNREACHABLE; the reason of `signal`
   */
  frameBytes(id: ChunkId, signal: AbortSignal): Promise<number | undefined>;
  /** @param path below the gateway's URL. @throws SITECAST_GATEWAY_UNREACHABLE */
  getJson(path: string, signal?: AbortSignal): Promise<JsonAnswer>;
  /** Signed by this device; repeated with the gateway's time where the device's own is refused. @throws as `getJson` */
  postJson(path: string, body: unknown, signal?: AbortSignal, timeoutMs?: number): Promise<JsonAnswer>;
  /** Resolves when the repository has changed or the gateway stops waiting. @throws as `getJson` */
  waitForChange(waitMs: number, signal?: AbortSignal): Promise<'changed' | 'same'>;
}

/** A machine of the site, as a gateway or multicast DNS has announced it. Nothing vouches for its addresses. */
export interface FoundPeer {
  id: string;
  /** Multiaddresses, each with the id at its end. */
  addresses: readonly string[];
}

/** An image, as the devices of a site know it from signed metadata. */
export interface SiteImage {
  /** SHA-256 of its chunk index's bytes: the name that devices use. */
  id: Uint8Array;
  index: ChunkIndex;
}

/** What this device holds of an image. Peers are told what is added. Chunks are given by their numbers in the index. */
export interface HeldImage {
  /** Chunks that the device holds. */
  readonly count: number;
  add(at: number): void;
  /** Nothing more is fetched: the image is complete, or it isn't wanted any more. */
  settle(): void;
  /** The image isn't handed out any more. */
  end(): void;
}

export interface PeerFetch {
  /** The gateways as one store, not verified. */
  gateway: ChunkStore;
  /** Chunks in memory at one time. */
  concurrency: number;
  signal: AbortSignal;
  /** Milliseconds after which a chunk that the gateway refuses and no peer holds ends it; undefined: a peer may still bring it. */
  refusedMs?: number | undefined;
  /** Takes a verified chunk. */
  deliver: (at: number, plain: Uint8Array) => Promise<void>;
  /** A peer misbehaved, above all by sending wrong bytes. It isn't asked any more. */
  onBan: (source: string, code: string) => void;
}

/** Since the start, in plain bytes. */
export interface PeerCounts {
  /** Devices that were announced lately. */
  known: number;
  receivedBytes: number;
  sentBytes: number;
  /** Connections and streams that were ended or refused because others needed their places. Many of them show that this device is flooded. */
  dropped: number;
  /** Why other devices can't reach this one now. */
  trouble?: string;
}

/** What the exchange with peers asks of the agent. */
export interface PeerPorts {
  /** This device's signed assignment, as bytes. */
  credential: () => Uint8Array | undefined;
  mayServe: (id: string, credential: Uint8Array) => boolean;
  isBusy: () => boolean;
  files: HeldFiles;
  /** Other devices can reach this one now, and could not before. */
  onReachable: () => void;
}

/** Signed files that this device holds: it gives them to other devices of its site. */
export interface HeldFiles {
  /** @param path below /metadata/. @returns undefined where it isn't here */
  metadata(path: string): Promise<Uint8Array | undefined>;
  /** @param path below /targets/, not verified. @returns undefined where it isn't here */
  target(path: string): Promise<Uint8Array | undefined>;
}

/** The other devices of the site. Chunks come from them and go to them. */
export interface SitePeers {
  /** Where others reach this device: multiaddresses, each with its id at the end. */
  readonly addresses: readonly string[];
  readonly counts: PeerCounts;
  /** @param chunks of that image; the store returns only what it has verified */
  hold(image: SiteImage, chunks: ChunkStore): HeldImage;
  /** These peers were announced. */
  note(peers: readonly FoundPeer[]): void;
  /** A gateway has named these before this start: for times without a gateway. */
  remember(peers: readonly FoundPeer[]): void;
  /**
   * Fetches chunks from peers and gateways together, in the order that is best for the site.
   * @param wanted numbers of chunks, of an image that is held
   * @throws SITECAST_STORE_UNREACHABLE when nothing has come for a minute; what `deliver` throws; the signal's reason
   */
  fetch(image: SiteImage, wanted: Iterable<number>, options: PeerFetch): Promise<void>;
  /** Machines that may give the repository's files, in the order in which they are to be asked, which chance has a part in. */
  sources(): readonly RepositorySource[];
  /** Devices that a gateway has named, and those that multicast DNS has found besides. */
  knownDevices(): { named: readonly string[]; found: number };
  /** Whether a device that a gateway has named answers at this moment, and doesn't prove itself or reboot. */
  isUp(id: string, signal: AbortSignal): Promise<boolean>;
  /** Stops serving a device that was revoked. */
  drop(id: string): void;
  close(): Promise<void>;
}

/** Makes the bytes of one window of a delta, in bounded memory and time. */
export interface WindowApplier {
  /** The encoders that it knows, by their names in recipes: what a window needs beside the plain decoders. */
  readonly encoders: readonly string[];
  /** Memory for a base range and the whole chunks that it lies in: at most MAX_BASE_MEMORY_BYTES. The same at each call. */
  baseMemory(lengthBytes: number): Uint8Array;
  /** Memory for a patch: at most MAX_PATCH_BYTES. The same at each call. */
  patchMemory(lengthBytes: number): Uint8Array;
  /**
   * @param base the window's whole base range, best in `baseMemory`, where other bytes may be afterwards
   * @param maxMs CPU time that it may take
   * @returns exactly `targetLength` bytes, there until the next patch is applied or the applier closed; the caller compares them with the signed index
   * @throws SITECAST_PATCH_… where the patch makes nothing, or takes too much memory or time: `data.cpuMs` says how much; the signal's reason
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

/** What other processes of the device's owner ask a running daemon for. */
export const CONTROL_COMMANDS = ['check', 'update', 'confirm', 'status', 'settings'] as const;
export type ControlCommand = (typeof CONTROL_COMMANDS)[number];

/** Writes a line to the device's journal. An error that the message doesn't name belongs into `data.err`. */
export type Log = (level: 'info' | 'warn' | 'error', message: string, data?: LogFields) => void;

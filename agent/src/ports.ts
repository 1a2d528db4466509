import type { ChunkIndex, ChunkStore } from '@sitecast/shared/content';
import type { LogFields } from '@sitecast/shared/log';
import type { MetadataFetcher } from '@sitecast/shared/trust';
import type { SlotPlace } from './state/agent-state.ts';

/** The two places for an image. */
export const SLOT_NAMES = ['A', 'B'] as const;
export type SlotName = (typeof SLOT_NAMES)[number];

export const otherSlot = (slot: SlotName): SlotName => (slot === 'A' ? 'B' : 'A');

/** Wall time, and whether anything vouches for it. */
export interface AgentClock {
  /** Milliseconds since 1970. */
  now(): number;
  /** True if the system says that its clock is synchronised; undefined where it doesn't say. */
  isSynchronised(): Promise<boolean | undefined>;
  /** Resolves after so long, or at once when the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** A place for an image: a file, a block device, a volume. Errors are SITECAST_SLOT_…, each naming the path. */
export interface Slot {
  readonly path: string;
  /**
   * Looks where it lies, without opening it.
   * @param remembered where it was found before
   * @throws SITECAST_SLOT_MISSING where nothing is and nothing may be made: it has to be waited for
   */
  locate(remembered: SlotPlace | undefined): Promise<SlotPlace>;
  /**
   * Looks whether it's there, whether somebody else uses it, and whether its first bytes can be read. One that runs is in use.
   * @throws SITECAST_SLOT_MISSING, SITECAST_SLOT_BUSY, and what else reading throws
   */
  look(remembered: SlotPlace | undefined, options: { isBooted: boolean }): Promise<void>;
  /** Bytes that it can hold; undefined where nothing but the file system bounds it. */
  capacityBytes(): Promise<number | undefined>;
  /** For looking only. Undefined if nothing is there yet. */
  openForReading(): Promise<SlotReader | undefined>;
  /** Past the page cache where the system allows it: what the medium holds. */
  openForReadBack(): Promise<SlotReader>;
  /**
   * For this agent alone, as far as the system can grant that; makes a file where none is yet. All that could make it
   * overwrite something else is checked at the opened slot itself, not at its path.
   * @throws SITECAST_SLOT_MISSING, SITECAST_SLOT_BUSY, SITECAST_SLOT_OVERLAP: it has to be waited for; nothing was written
   */
  openForWriting(): Promise<SlotWriter>;
}

export interface SlotReader {
  /** False where the page cache may have answered instead of the medium. */
  readonly isDirect: boolean;
  /**
   * Feeds `[offset, offset + lengthBytes)` to `consume`, in order, in pieces that are only lent until it returns.
   * @returns false if the slot ends before
   */
  read(offset: number, lengthBytes: number, consume: (piece: Uint8Array) => void): Promise<boolean>;
  /**
   * What's there now, whoever is writing; several may read at one time.
   * @returns false if the slot ends before `into` is full
   */
  readInto(offset: number, into: Uint8Array): Promise<boolean>;
  close(): Promise<void>;
}

export interface SlotWriter {
  /** The bytes may be reused once it has resolved. */
  write(bytes: Uint8Array, offset: number): Promise<void>;
  /** Ends the slot after so many bytes, where it's a file; then makes all durable. */
  finish(lengthBytes: number): Promise<void>;
  close(): Promise<void>;
}

/** What the boot loader says. */
export interface BootState {
  booted: SlotName;
  /** What the next boot runs, trial or not. */
  next: SlotName;
  /** Another with each boot: tells an agent that was restarted from a machine that was. */
  bootId: string;
  /** The control's own notes were lost, and are made up from its copy or from what the agent remembers: what was wrong. */
  lost?: string;
}

/** What the agent itself remembers of the boot: for a control whose own notes were lost. */
export interface RememberedBoot {
  /** The slots that may run, the surest first; none where nothing is remembered. */
  slots: readonly SlotName[];
  /** The slot that the loader was told to try, or is being told; undefined where no trial is under way. */
  onTrial: SlotName | undefined;
}

/**
 * The boot loader, behind the few verbs that grub's and U-Boot's variables can express, too: an order of two
 * slots, tries left for the first of them, and which are good.
 */
export interface BootControl {
  /**
   * Called when the agent starts, and again where that failed: the same start is never counted twice.
   */
  start(remembered?: RememberedBoot): Promise<BootState>;
  read(): Promise<BootState>;
  /** No boot may choose this slot from now on; it isn't the booted one. */
  markBad(slot: SlotName): Promise<void>;
  /** The next `tries` boots run this slot; unless it's confirmed by then, the following ones run the other again. */
  setTrial(slot: SlotName, tries: number): Promise<void>;
  /** The booted slot is good: no more counting. */
  confirm(slot: SlotName): Promise<void>;
  /** All boots run this slot, which is good. */
  setNext(slot: SlotName): Promise<void>;
  /** Asks for a boot. What runs afterwards, `read` tells: by then this process may be gone. */
  reboot(): Promise<void>;
  /** The agent stops, the machine doesn't: not a boot. */
  stop(): Promise<void>;
}

export interface CommandOutcome {
  /** Null if a signal ended it. */
  exitCode: number | null;
  isTimedOut: boolean;
  /** The last of what it wrote, both streams: for people to read. */
  output: string;
  /** The last of what it wrote to its standard output alone: where a program's answer is read from. */
  stdout: string;
  /** The last of what it wrote to its standard error: warnings, if it ended well. */
  stderr: string;
}

interface CommandOptions {
  env: Record<string, string>;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  /** What it starts goes on after it has ended with 0, and when the signal fires. */
  mayLeave?: boolean;
}

/**
 * Runs a user's command line in a shell, in a process group of its own that is ended as a whole.
 * @throws the signal's reason, once the group has ended; the system's error where no shell can be started
 */
export type RunCommand = (command: string, options: CommandOptions) => Promise<CommandOutcome>;

export interface JsonAnswer {
  status: number;
  body: unknown;
}

/** One gateway (or an origin: both speak the same). Nothing it says is believed unsigned. */
export interface Gateway {
  readonly url: string;
  readonly metadata: MetadataFetcher;
  readonly targets: MetadataFetcher;
  readonly chunks: ChunkStore;
  /** @param path below the gateway's URL. @throws SITECAST_GATEWAY_UNREACHABLE */
  getJson(path: string, signal?: AbortSignal): Promise<JsonAnswer>;
  /** Signed by this device; again with the gateway's time where ours is refused. @throws as `getJson` */
  postJson(path: string, body: unknown, signal?: AbortSignal): Promise<JsonAnswer>;
  /** Resolves when the repository has changed or the gateway stops waiting. @throws as `getJson` */
  waitForChange(waitMs: number, signal?: AbortSignal): Promise<'changed' | 'same'>;
}

/** A machine of the site, as somebody has named it: nobody vouches for its addresses. */
export interface FoundPeer {
  id: string;
  /** Multiaddresses, each with the id at its end. */
  addresses: readonly string[];
}

/** An image, as the devices of a site know it from signed metadata. */
export interface SiteImage {
  /** SHA-256 of its chunk index's bytes: what they call it. */
  id: Uint8Array;
  index: ChunkIndex;
}

/** What this device holds of an image; others hear what's added. Chunks are meant by their numbers in the index. */
export interface HeldImage {
  /** How many it holds. */
  readonly count: number;
  add(at: number): void;
  /** No more is fetched: all of it is here, or it's not wanted any more. */
  settle(): void;
  /** It isn't handed out any more. */
  end(): void;
}

export interface PeerFetch {
  /** The gateways as one store, not verified. */
  gateway: ChunkStore;
  /** Chunks in memory at one time. */
  concurrency: number;
  signal: AbortSignal;
  /** Takes a verified chunk. */
  deliver: (at: number, plain: Uint8Array) => Promise<void>;
  /** A peer sent what it must not, wrong bytes above all: it isn't asked any more. */
  onBan: (source: string, code: string) => void;
}

/** Since the start, in plain bytes. */
export interface PeerCounts {
  /** Devices that somebody has named lately. */
  known: number;
  receivedBytes: number;
  sentBytes: number;
  /** Connections and streams ended or refused because others needed their places: many of them, and somebody floods this device. */
  dropped: number;
}

/** The other devices of the site: chunks come from them and go to them. */
export interface SitePeers {
  /** Under which others reach this device: multiaddresses, its id at their end. */
  readonly addresses: readonly string[];
  readonly counts: PeerCounts;
  /** @param chunks of that image: gives only what it has checked */
  hold(image: SiteImage, chunks: ChunkStore): HeldImage;
  /** Somebody has named these. */
  note(peers: readonly FoundPeer[]): void;
  /**
   * Fetches chunks from peers and gateways together, in whatever order is best for all.
   * @param wanted of an image that is held: numbers of chunks
   * @throws SITECAST_STORE_UNREACHABLE when nothing has come for a minute; what `deliver` throws; the signal's reason
   */
  fetch(image: SiteImage, wanted: Iterable<number>, options: PeerFetch): Promise<void>;
  /** Ends what is being served to a device: it was revoked. */
  drop(id: string): void;
  close(): Promise<void>;
}

/** What other processes of the device's owner ask a running daemon for. */
export const CONTROL_COMMANDS = ['check', 'update', 'confirm', 'status'] as const;
export type ControlCommand = (typeof CONTROL_COMMANDS)[number];

/** Lines in the device's journal. An error that isn't told in the message belongs into `data.err`. */
export type Log = (level: 'info' | 'warn' | 'error', message: string, data?: LogFields) => void;

import type { ChunkId } from '@sitecast/shared/content';
import type { OnlineRole } from '@sitecast/shared/signing';
import type { Role } from './roles.ts';

/** The longest target file: a chunk index at its own bound. */
export const MAX_TARGET_FILE_BYTES = 64 * 1024 * 1024;
/** New chunks that one commit may bring in. */
export const MAX_COMMIT_CHUNKS = 2 * 1024 * 1024;

/** A target file. It never changes: its SHA-256 is a part of its identity. */
export interface TargetRef {
  /** As in `releases/camera-2.json`. */
  name: string;
  /** 64 lower-case hexadecimal digits. */
  sha256: string;
}

/** A file that clients ask for, other than timestamp.json. */
export type FileRef =
  | { kind: 'metadata'; role: Role; version: number }
  | ({ kind: 'target' } & TargetRef)
  | { kind: 'chunk'; id: ChunkId };

/** A published file that is open for reading. It stays readable when other bytes take its place. */
export interface OpenFile {
  lengthBytes: number;
  /** A strong validator (RFC 9110, 8.8.1), without its quotes: other bytes have another one. */
  tag: string;
  /** Bytes `[start, start + lengthBytes)`. Closes the file. */
  read(start: number, lengthBytes: number): Promise<Buffer<ArrayBuffer>>;
  /** The same in small pieces. Closes the file at its end, and when it is cancelled. */
  stream(start: number, lengthBytes: number): ReadableStream<Uint8Array>;
  /** For a caller that reads nothing. */
  close(): void;
}

/** For each of the origin's roles the highest version that was ever handed out, even if it was never committed. */
export type VersionFloor = Readonly<Record<OnlineRole, number>>;

/** How far the clock had leapt when a timestamp was signed. */
export interface LeapNote {
  leaptMs: number;
  /** `issued` of that timestamp. */
  issuedMs: number;
}

export interface MetadataFile {
  role: Role;
  version: number;
  bytes: Uint8Array;
}

/** A target file that a commit brings in. */
export interface NewTarget extends TargetRef {
  /** The bytes, if the origin made the file itself. Without them it is taken from staging. */
  bytes?: Buffer;
}

/** All that one commit changes. */
export interface Commit {
  timestamp: Uint8Array;
  /** The root that comes into force. Clients look for it by its number, so it must not be seen before the new timestamp. */
  newRoot: MetadataFile | undefined;
  /** All other metadata that is new, roots between the last one and `newRoot` among them. */
  metadata: readonly MetadataFile[];
  targets: readonly NewTarget[];
  /** Ids of the staged chunks that the new targets need, 32 bytes each, none twice. */
  chunks: Uint8Array;
  /** Version numbers that are used up from now on, whether the commit happens or not. */
  usedVersions: VersionFloor;
  /** Undefined if the timestamp was signed elsewhere. */
  leap: LeapNote | undefined;
}

/** How the last commit ended. */
export interface Settled {
  outcome: 'nothingUnderWay' | 'undone' | 'completed' | 'unknown';
  /** Versions that were signed once and must not be given again; undefined if nothing tells of them any more. */
  floor: VersionFloor | undefined;
  leap: LeapNote | undefined;
}

/** What the metadata in force refers to. */
export interface Referenced {
  metadata: readonly Pick<MetadataFile, 'role' | 'version'>[];
  targets: readonly TargetRef[];
}

/**
 * Where the published repository lies: metadata and target files. The store checks hashes where it names them; signatures are
 * the caller's business.
 *
 * One origin at a time commits, settles and prunes (the lease of the publisher sees to that). All other calls may come from
 * several origins at once: they read what never changes under its name, or put the one right version in its place.
 *
 * Errors: SITECAST_NO_SPACE for a full disk or quota; otherwise the system's own.
 */
export interface RepositoryStore {
  /**
   * timestamp.json, which is the commit point; undefined if there's none, or if it can't be read back. Whichever origin has committed, all
   * see it from then on: each compares it with its own before it changes something, so asking must be cheap.
   */
  timestamp(): Promise<Buffer | undefined>;
  /** A version of a role's metadata other than the timestamp; undefined if it isn't there, or can't be read back. */
  metadata(role: Role, version: number): Promise<Buffer | undefined>;
  /** Of each role the highest version that is there, of the timestamp none. */
  newestVersions(): Promise<ReadonlyMap<string, number>>;
  /**
   * Puts a change in place, all of it or nothing: no client sees a part of it, whatever interrupts the call. `settle` must
   * follow, however the call ends: it tells whether the commit has happened.
   * @throws SITECAST_STAGING_DAMAGED (failed) if a staged file was lost or altered
   */
  commit(commit: Commit): Promise<void>;
  /**
   * Brings the last commit to its end: forward if its timestamp is in place, else back. It may be interrupted itself, and called
   * again. Before it, metadata and targets of a commit that is going to be undone may be there.
   * @throws SITECAST_REPOSITORY_DAMAGED (failed)
   */
  settle(): Promise<Settled>;
  /** The bytes of a target file; undefined if it is lost, damaged or unreadable. */
  target(file: TargetRef): Promise<Buffer | undefined>;
  /** Puts the second copy in the place of a file that is lost or damaged. @returns its bytes; undefined if there is no right copy */
  restoreTarget(file: TargetRef): Promise<Buffer | undefined>;
  /** Keeps second copies of the files that can't be made anew. Files that have one, and damaged ones, are passed over. */
  keepCopies(files: readonly TargetRef[]): Promise<void>;
  /** Puts the right bytes in the place of a target file that is lost or damaged. @returns false if it was right */
  repairTarget(file: TargetRef, bytes: Uint8Array): Promise<boolean>;
  /** The same for metadata, of which the caller knows the bytes. @returns false if they were there */
  repairMetadata(file: MetadataFile): Promise<boolean>;
  /** Takes a damaged file out of what is served. Without an effect if the store can't be written to. */
  setAside(file: FileRef): Promise<void>;
  /**
   * Opens a file for a client. What is opened has been checked against its name: the hash of targets and chunks, the
   * signatures of roots.
   * @returns `damaged` at the call that finds it out; `missing` from then on, and where there is no such file
   */
  open(file: FileRef): Promise<OpenFile | 'missing' | 'damaged'>;
  /** The target files that are there, whether anything refers to them or not. */
  targets(): AsyncIterable<TargetRef>;
  /**
   * Deletes metadata and target files that nothing has referred to for a day: a client may be in the midst of a refresh. Roots
   * stay, because clients walk through all of them. Second copies of what isn't referred to go as well.
   * @returns how many files, copies not counted
   */
  prune(referenced: Referenced, nowMs: number): Promise<number>;
  /** Files of rollouts that are decided and wait for a key, by target name. */
  deferredRollouts(): Promise<ReadonlyMap<string, Buffer>>;
  /** Replaces them, durably. */
  deferRollouts(byName: ReadonlyMap<string, Buffer>): Promise<void>;
}

/** What reading published chunks back has shown. */
export interface Inspection {
  readBytes: number;
  /** Ids of those that were set aside, 32 bytes each. */
  damaged: Uint8Array;
}

/** A share of all chunks, by the beginnings of their ids. */
export interface ChunkPart {
  /** From 0. */
  part: number;
  parts: number;
}

/** The part that a chunk belongs to. @param beginning the first two bytes of its id, as one number */
export function partOf(beginning: number, parts: number): number {
  return Math.floor((beginning * parts) / 65_536);
}

/**
 * The chunks that are published. Lists of ids are 32 bytes an id. Several origins may call all of it at once.
 */
export interface PublishedChunks {
  /** The ids of all that are there, or of those of one part, in lists of any length. */
  list(part?: ChunkPart): AsyncIterable<Uint8Array>;
  /** When chunks were last published here, milliseconds since 1970; undefined where nothing tells. It goes with the chunks into a backup. */
  publishedMs(): Promise<number | undefined>;
  /**
   * Deletes chunks that nothing refers to, but for those that were published or asked for by an upload since `beforeMs`.
   * @returns how many
   */
  removeUnused(ids: Uint8Array, beforeMs: number): Promise<number>;
  /** Those of the ids that aren't published, in their order. */
  lacking(ids: Uint8Array): Promise<Uint8Array>;
  /**
   * Reads chunks back, whatever was read before, and sets those aside whose bytes are wrong: they are lacking from then on. Ids that
   * aren't published are passed over.
   */
  inspect(ids: Uint8Array): Promise<Inspection>;
  /** Publishes staged chunks in the place of lost ones, durably: their ids are known to be referred to. */
  repair(ids: Uint8Array): Promise<void>;
}

/** A file that a listing found. */
export interface FoundFile {
  name: string;
  lengthBytes: number;
  modifiedMs: number;
}

/** A file that is being written; it has no name before `finish`. */
export interface FileWriter {
  write(bytes: Uint8Array): Promise<void>;
  /** Makes the bytes durable and gives the file its name. The name is durable after `syncDirectory`. */
  finish(): Promise<void>;
  /** Throws the bytes away. Does nothing after `finish`. */
  discard(): Promise<void>;
}

/** A file that is open for reading. It stays readable when another file takes its name. */
export interface DiskFile {
  lengthBytes: number;
  modifiedMs: number;
  /** Changes when the file is written to, or replaced. */
  stamp: string;
  /** Bytes `[start, start + lengthBytes)`. Closes the file. */
  read(start: number, lengthBytes: number): Promise<Buffer<ArrayBuffer>>;
  /** The same in small pieces. Closes the file at its end, and when it is cancelled. */
  stream(start: number, lengthBytes: number): ReadableStream<Uint8Array>;
  /** For a caller that reads nothing. */
  close(): void;
}

/**
 * The data directory. Paths are relative to it, with `/` between the parts, and made of names that were checked or chosen by the
 * origin.
 *
 * Durability is that of a power cut: bytes last after `sync`; names (creations, moves, removals) last after `syncDirectory` of
 * the directory that holds them.
 *
 * Errors: SITECAST_NO_SPACE for a full disk or quota; otherwise the system's own.
 */
export interface Files {
  /** Undefined if there is no such regular file. */
  open(path: string): Promise<DiskFile | undefined>;
  /** The whole file, of at most `maxBytes`; undefined if it isn't there. @throws SITECAST_FILE_TOO_LARGE */
  read(path: string, maxBytes: number): Promise<Buffer | undefined>;
  /** Length in bytes; undefined if there is no such file. */
  lengthOf(path: string): Promise<number | undefined>;
  /** The regular files of one directory, in no order; nothing if the directory isn't there. */
  list(path: string): AsyncIterable<FoundFile>;
  /** The names of the directories within a directory; nothing if it isn't there. */
  listDirectories(path: string): Promise<string[]>;
  /** With its parents. */
  makeDirectory(path: string, mode?: number): Promise<void>;
  writer(path: string): Promise<FileWriter>;
  /** Creates or replaces a file. A power cut leaves the old bytes or the new ones; the new ones last when the call returns. */
  writeDurably(path: string, bytes: Uint8Array, mode?: number): Promise<void>;
  /** The same for a file that must not be there yet. @returns false if it is there, and stays as it was */
  createDurably(path: string, bytes: Uint8Array, mode?: number): Promise<boolean>;
  /** Replaces what is there. */
  move(from: string, to: string): Promise<void>;
  /** No error if it isn't there. */
  remove(path: string): Promise<void>;
  sync(path: string): Promise<void>;
  syncDirectory(path: string): Promise<void>;
  /** `sync` or `syncDirectory` of many, which may cost as little as one. */
  syncAll(paths: readonly string[]): Promise<void>;
}

/**
 * The data directory for a thread of its own that may wait for the disk: handing each of several small steps of a chunk
 * to node's thread pool costs many times what the steps do. Paths and errors are those of `Files`.
 */
export interface SyncFiles {
  read(path: string, maxBytes: number): Buffer | undefined;
  lengthOf(path: string): number | undefined;
  /** When a file was last written to or touched, milliseconds since 1970; undefined if there is no such file. */
  modifiedMs(path: string): number | undefined;
  /** Sets that time. Not durable. */
  touch(path: string, nowMs: number): void;
  list(path: string): Iterable<FoundFile>;
  makeDirectory(path: string): void;
  /** Replaces what is there; not atomic, not durable. After an error nothing is left of it. */
  write(path: string, bytes: Uint8Array): void;
  move(from: string, to: string): void;
  remove(path: string): void;
}

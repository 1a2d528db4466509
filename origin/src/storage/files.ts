/** A file that a listing found. */
export interface FoundFile {
  name: string;
  lengthBytes: number;
  modifiedMs: number;
}

/** A file that is being written; nobody sees it under its name before `finish`. */
export interface FileWriter {
  write(bytes: Uint8Array): Promise<void>;
  /** Makes the bytes durable and gives the file its name (whose durability is the directory's, see `syncDirectory`). */
  finish(): Promise<void>;
  /** Throws the bytes away. Does nothing after `finish`. */
  discard(): Promise<void>;
}

/** A file that is open for reading; it stays readable when another takes its name. */
export interface OpenFile {
  lengthBytes: number;
  modifiedMs: number;
  /** Another one where the file is another, or was written to since. */
  stamp: string;
  /** Bytes `[start, start + lengthBytes)`. Closes the file. */
  read(start: number, lengthBytes: number): Promise<Buffer<ArrayBuffer>>;
  /** The same in small pieces. Closes the file at its end, or when it's cancelled. */
  stream(start: number, lengthBytes: number): ReadableStream<Uint8Array>;
  /** For whoever needn't read it. */
  close(): void;
}

/** What the read side needs of the data directory. */
export interface ReadableFiles {
  /** Undefined if there's no such regular file. */
  open(path: string): Promise<OpenFile | undefined>;
}

/**
 * The origin's data directory as everything above the disk sees it. Paths are relative to it, with `/` between the
 * parts, and made of names that were checked or chosen by the origin.
 *
 * Durability is spelled out, as a power cut sees it: bytes last after `sync`, names (creations, moves, removals)
 * after `syncDirectory` of the directory they are in.
 *
 * Errors: SITECAST_NO_SPACE for a full disk or quota; else the system's own.
 */
export interface Files {
  /** The whole file, of at most `maxBytes`; undefined if it isn't there. @throws SITECAST_FILE_TOO_LARGE */
  read(path: string, maxBytes: number): Promise<Buffer | undefined>;
  /** Length in bytes, undefined if there's no such file. */
  lengthOf(path: string): Promise<number | undefined>;
  /** The regular files of one directory, in no order; nothing if it isn't there. */
  list(path: string): AsyncIterable<FoundFile>;
  /** The names of the directories within a directory; nothing if it isn't there. */
  listDirectories(path: string): Promise<string[]>;
  /** With its parents. */
  makeDirectory(path: string, mode?: number): Promise<void>;
  writer(path: string): Promise<FileWriter>;
  /** Creates or replaces: a power cut leaves the old bytes or the new ones; the new ones last when it returns. */
  writeDurably(path: string, bytes: Uint8Array, mode?: number): Promise<void>;
  /** Replaces what is there. */
  move(from: string, to: string): Promise<void>;
  /** No error if it isn't there. */
  remove(path: string): Promise<void>;
  sync(path: string): Promise<void>;
  syncDirectory(path: string): Promise<void>;
  /** `sync` or `syncDirectory` of many, which may cost as little as one. */
  syncAll(paths: readonly string[]): Promise<void>;
}

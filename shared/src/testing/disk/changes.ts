/** One change of a directory. Paths are relative to the directory that is watched. */
export type Change =
  /** A file is opened that may not have existed; `isEmptied`: with nothing in it. */
  | { kind: 'open'; path: string; isEmptied: boolean }
  | { kind: 'write'; path: string; offset: number; bytes: Buffer }
  | { kind: 'truncate'; path: string; lengthBytes: number }
  | { kind: 'rename'; path: string; to: string }
  /** The file gets a second name. */
  | { kind: 'link'; path: string; to: string }
  | { kind: 'remove'; path: string }
  | { kind: 'make-directory'; path: string }
  /**
   * An fsync of a file, or of a directory ('' is the one that is watched), has ended. It covers what was made before it began: the first
   * `covers` changes of the record.
   */
  | { kind: 'sync'; path: string; covers: number }
  /** A program has said so, by looking for `/sitecast-mark/NAME`. */
  | { kind: 'mark'; name: string };

/** A directory's files, by their paths in it. */
export type Files = ReadonlyMap<string, Buffer>;

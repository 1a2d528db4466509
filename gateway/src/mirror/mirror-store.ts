/** A target file that lies on the disk. */
export interface StoredTarget {
  path: string;
  lengthBytes: number;
  modifiedMs: number;
}

/**
 * Where the mirrored repository lies. Its caller verifies everything that it gives.
 * Errors: SITECAST_NO_SPACE for a full disk; else the system's own.
 */
export interface MirrorStore {
  /** The metadata files of the last saved set, by name; undefined where there is none, or not all of it. */
  loadSet(): Promise<Map<string, Uint8Array> | undefined>;
  /** Replaces the set as a whole: a power cut leaves the old one or the new one. */
  saveSet(files: ReadonlyMap<string, Uint8Array>): Promise<void>;
  loadRoots(): Promise<Map<number, Uint8Array>>;
  saveRoot(version: number, bytes: Uint8Array): Promise<void>;
  /** Undefined where the file is missing or unreadable. */
  readTarget(path: string, maxBytes: number): Promise<Uint8Array | undefined>;
  writeTarget(path: string, bytes: Uint8Array): Promise<void>;
  removeTarget(path: string): Promise<void>;
  listTargets(): Promise<StoredTarget[]>;
}

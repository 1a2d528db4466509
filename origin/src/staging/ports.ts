/** How a chunk that an index names was found. */
export type ChunkState = 'missing' | 'staged' | 'published' | 'wrongLength';

/** Chunks, and what the index says of the length of each, when plain. */
export interface ChunkList {
  /** 32 bytes each. */
  ids: Uint8Array;
  lengths: Uint32Array;
}

/** How an upload went. The memory that it lay in comes back, however it went. */
export interface StageOutcome {
  batch: ArrayBuffer;
  stored: number;
  known: number;
  /** The first thing that was wrong; what came before it is staged. */
  error: Error | undefined;
}

export interface StagedTotals {
  chunks: number;
  bytes: number;
}

/**
 * Chunks that were uploaded and that nothing refers to yet. Lists of ids are 32 bytes an id.
 *
 * Several origins may call all of it at once: staging a chunk twice does no harm. An origin may report as missing what another one
 * has staged.
 */
export interface ChunkStaging {
  /** Those of the ids that are neither published nor staged, in their order. */
  missing(ids: Uint8Array): Promise<Uint8Array>;
  /**
   * Verifies the chunks of an upload and stages them.
   * @param batch belongs to the callee until it comes back with the outcome
   * @param lengthBytes how much of it the upload fills
   */
  stage(batch: ArrayBuffer, lengthBytes: number): Promise<StageOutcome>;
  /**
   * Looks for chunks that an index names, verifies those that this process hasn't verified yet, and claims those that are staged:
   * their age counts from now, so no `prune` takes them before the commit that needs them.
   */
  check(list: ChunkList): Promise<ChunkState[]>;
  /** Deletes what was staged, or last asked for, before `beforeMs`. @returns how many */
  prune(beforeMs: number): Promise<number>;
  totals(): Promise<StagedTotals>;
}

/** Receives one target file; see `FileStaging.receive`. */
export interface FileReceiver {
  write(bytes: Uint8Array): Promise<void>;
  /** @throws SITECAST_HASH_MISMATCH (untrusted) when the bytes aren't those that were announced */
  finish(): Promise<void>;
  /** To be called in any case; gives up what isn't finished. */
  discard(): Promise<void>;
}

/**
 * Target files (indexes, manifests, product files) that were uploaded and that nothing refers to yet, by SHA-256 (64 lower-case
 * hexadecimal digits). Several origins may call all of it at once.
 */
export interface FileStaging {
  /** @throws SITECAST_STAGING_FULL (noSpace) */
  receive(sha256: string): Promise<FileReceiver>;
  /** The file's bytes, checked against the hash; undefined if it isn't staged. A damaged one is deleted. */
  read(sha256: string): Promise<Buffer | undefined>;
  remove(sha256: string): Promise<void>;
  /** Deletes what was staged, or last read, before `beforeMs`. @returns how many */
  prune(beforeMs: number): Promise<number>;
}

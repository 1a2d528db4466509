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

/** What reading published chunks back has shown. */
export interface Inspection {
  readBytes: number;
  /** Ids of those that were set aside, 32 bytes each. */
  damaged: Uint8Array;
}

export interface StagedTotals {
  chunks: number;
  bytes: number;
}

/**
 * The chunks that were uploaded and that nothing refers to yet, and the look at those that are published. Calls are
 * carried out one after the other. Lists of ids are 32 bytes an id.
 */
export interface Chunks {
  /** Those of the ids that are neither published nor staged, in their order. */
  missing(ids: Uint8Array): Promise<Uint8Array>;
  /**
   * Verifies the chunks of an upload and stages them.
   * @param batch belongs to the callee until it comes back with the outcome
   * @param lengthBytes how much of it the upload fills
   */
  stage(batch: ArrayBuffer, lengthBytes: number): Promise<StageOutcome>;
  /** Those of the ids that aren't published, staged or not, in their order. */
  unpublished(ids: Uint8Array): Promise<Uint8Array>;
  /**
   * Reads published chunks back, whatever was read before, and sets those aside whose bytes are wrong: they are missing from
   * then on. Ids that aren't published are passed over.
   */
  inspect(ids: Uint8Array): Promise<Inspection>;
  /** Looks for chunks that an index names and verifies those that this process hasn't verified yet. */
  check(list: ChunkList): Promise<ChunkState[]>;
  /** Those of the ids that are staged to replace a published chunk whose bytes are wrong. */
  repairs(ids: Uint8Array): Promise<Uint8Array>;
  /** Moves staged chunks to where they are published. The new names last once their directories are synced. */
  publish(ids: Uint8Array): Promise<void>;
  /** Moves published chunks that no committed release came to refer to back to staging. */
  unpublish(ids: Uint8Array): Promise<void>;
  /** Deletes what was staged, or last asked for, before `beforeMs`. @returns how many */
  removeOlderThan(beforeMs: number): Promise<number>;
  totals(): Promise<StagedTotals>;
}

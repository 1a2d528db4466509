import type { ErrorCode, ErrorKind } from '../../errors.ts';

/** What a worker thread gets once, at its start. */
export interface FrameWorkerData {
  /** zstd level of the frames it makes. */
  readonly level: number;
  /** The chunk store that `collect` reads. */
  readonly storeRoot: string | undefined;
}

/** Chunks, and memory that goes to a worker thread and comes back: moved, never copied. */
interface ChunkTask {
  /** Plain bytes. */
  readonly block: ArrayBuffer;
  /** The batch of frames that is made of them. */
  readonly body: ArrayBuffer;
  /** The chunks' ids, 32 bytes each. */
  readonly ids: Uint8Array;
  /** 1 for each chunk whose frame is to go into the batch, else 0. */
  readonly wanted: Uint8Array;
}

/** Compresses chunks that lie in `block`, one after the other. */
interface CompressTask extends ChunkTask {
  readonly kind: 'compress';
  /** Where in `block` the first one begins. */
  readonly plainAt: number;
  /** Where each of them ends, counted from `plainAt`. */
  readonly ends: Uint32Array;
}

/** Reads chunks from the store, verifies them, and leaves their plain bytes in `block`, one after the other. */
interface CollectTask extends ChunkTask {
  readonly kind: 'collect';
  /** How many plain bytes each of them has, as the index says. */
  readonly lengths: Uint32Array;
}

export type FrameTask = CompressTask | CollectTask;

/** How a task went. */
export type FrameReply =
  | {
      readonly block: ArrayBuffer;
      readonly body: ArrayBuffer;
      readonly batchBytes: number;
      /** How long the thread worked on it. */
      readonly workMs: number;
    }
  | { readonly error: FrameError };

/** A SitecastError in a form that survives the way between threads. */
export interface FrameError {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly message: string;
  readonly data: Record<string, unknown>;
}

import type { ErrorCode, ErrorKind } from '../../errors.ts';

/** What a worker thread gets once, at its start. */
export interface FrameWorkerData {
  /** zstd level of the frames it makes. */
  readonly level: number;
  /** The chunk store that `collect` reads. */
  readonly storeRoot: string | undefined;
}

/** Memory that goes to a worker thread and comes back: moved, never copied. */
interface MovedMemory {
  /** Plain bytes. */
  readonly block: ArrayBuffer;
  /** The batch of frames that is made of them. */
  readonly body: ArrayBuffer;
}

/** Compresses chunks that lie in `block`. */
export interface CompressTask extends MovedMemory {
  readonly kind: 'compress';
  /** Of each chunk where it begins and ends in `block`. */
  readonly bounds: Uint32Array;
  /** Their ids, 32 bytes each. */
  readonly ids: Uint8Array;
}

/** Reads chunks from the store, verifies them, and leaves their plain bytes in `block`, one after the other. */
export interface CollectTask extends MovedMemory {
  readonly kind: 'collect';
  readonly ids: Uint8Array;
  /** How many plain bytes each of them has, as the index says. */
  readonly lengths: Uint32Array;
  /** 1 for each chunk whose frame is to go into the batch, else 0. */
  readonly wanted: Uint8Array;
}

export type FrameTask = CompressTask | CollectTask;

/** How a task went. */
export type FrameReply =
  | { readonly block: ArrayBuffer; readonly body: ArrayBuffer; readonly batchBytes: number }
  | { readonly error: FrameError };

/** A SitecastError in a form that survives the way between threads. */
export interface FrameError {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly message: string;
  readonly data: Record<string, unknown>;
}

import type { ErrorCode, ErrorKind } from '../errors.ts';

/** Memory that both threads see. */
export interface ApplyBuffers {
  readonly base: SharedArrayBuffer;
  readonly patch: SharedArrayBuffer;
  /** Longer than a target: what streams need lies here before it. */
  readonly target: SharedArrayBuffer;
}

/** What a worker thread gets at its start. */
export interface ApplyThreadData extends ApplyBuffers {
  /** What an earlier thread has compiled. */
  readonly compiled: object | undefined;
}

/** One patch to apply: how much of each memory is used, from its beginning but for the base. */
export interface ApplyTask {
  readonly baseOffset: number;
  readonly baseLength: number;
  readonly patchLength: number;
  readonly targetLength: number;
}

/** A `SitecastError` on its way between threads. */
export interface ApplyFailure {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly message: string;
}

/** What the thread says: once where its CPU time is counted, then one answer to each task. */
export type ApplyMessage =
  | { readonly cpuFile: string | undefined }
  /** `isWorn`: the thread is to be ended; `compiled` is for the next one. */
  | {
      readonly failure: ApplyFailure | undefined;
      readonly isWorn: boolean;
      readonly compiled: object | undefined;
    };

import type { ErrorCode, ErrorKind } from '../errors.ts';

/** Memory that both threads share. */
export interface ApplyBuffers {
  readonly base: SharedArrayBuffer;
  readonly patch: SharedArrayBuffer;
  /** Longer than the longest target: streams are decoded into its beginning. */
  readonly target: SharedArrayBuffer;
}

/** What a worker thread is started with. */
export interface ApplyThreadData extends ApplyBuffers {
  /** Modules that an earlier thread has compiled. */
  readonly compiled: object | undefined;
}

/** One patch to apply: how many bytes of each memory are used, from its beginning (of the base: from `baseOffset`). */
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

/** What the thread sends: first the file that counts its CPU time, then one answer to each task. */
export type ApplyMessage =
  | { readonly cpuFile: string | undefined }
  /** `isWorn`: the thread must be ended; `compiled`: modules for the next one. */
  | {
      readonly failure: ApplyFailure | undefined;
      readonly isWorn: boolean;
      readonly compiled: object | undefined;
    };

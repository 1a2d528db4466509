import type { ErrorCode, ErrorKind } from '../errors.ts';

/** What the worker thread gets once, at its start: memory that both threads see. */
export interface ApplyWorkerData {
  readonly base: SharedArrayBuffer;
  readonly patch: SharedArrayBuffer;
  readonly target: SharedArrayBuffer;
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
  /** `isWorn`: the thread is to be ended. */
  | { readonly failure: ApplyFailure | undefined; readonly isWorn: boolean };

import type { ErrorCode, ErrorKind } from '../errors.ts';

/** What the worker thread gets once, at its start: memory that both threads see. */
export interface ApplyWorkerData {
  readonly base: SharedArrayBuffer;
  readonly patch: SharedArrayBuffer;
  readonly target: SharedArrayBuffer;
}

/** One patch to apply: how much of each memory is used. */
export interface ApplyTask {
  readonly baseLength: number;
  readonly patchLength: number;
  readonly targetLength: number;
}

/** A `SitecastError` on its way between threads. */
interface ApplyFailure {
  readonly kind: ErrorKind;
  readonly code: ErrorCode;
  readonly message: string;
}

/** What the thread says: once where its CPU time is counted, then one answer to each task. */
export type ApplyMessage =
  | { readonly cpuFile: string | undefined }
  | { readonly failure: ApplyFailure; readonly isWorn: boolean }
  /** `isWorn`: the thread holds memory that isn't used any more. */
  | { readonly isWorn: boolean };

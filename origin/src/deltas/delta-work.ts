import type { DeltaName } from '@sitecast/shared/release';
import type { DeltaJob } from './job.ts';
import type { MadeWindow, WindowPlace } from './maker-port.ts';

/** A window as it is kept until its delta is published. */
export type KeptWindow = WindowPlace & Pick<MadeWindow, 'frameBytes'> & { patch: Buffer | undefined };

/** A window that is kept, without its patch. */
export type FinishedWindow = Omit<KeptWindow, 'patch'> & {
  /** Undefined: its chunks are sent. */
  patchLength: number | undefined;
};

/**
 * Where the work on deltas lies: which are made, and the windows of those that aren't finished. One origin at a time changes it.
 *
 * Errors: SITECAST_NO_SPACE for a full disk or quota; otherwise the system's own.
 */
export interface DeltaWork {
  /** As last saved. What can't be read counts as no jobs: what rollouts need is found again. */
  jobs(): Promise<DeltaJob[]>;
  /** Replaces all of them, durably. */
  saveJobs(jobs: readonly DeltaJob[]): Promise<void>;
  /** The windows that were kept, in no order. A damaged one is left out: it is made again. */
  windows(delta: DeltaName): Promise<FinishedWindow[]>;
  /** The patch of a window that was kept. @returns undefined where it is lost or damaged, or there is none */
  patch(delta: DeltaName, firstChunk: number): Promise<Buffer | undefined>;
  /** Durable when it resolves. */
  keepWindow(delta: DeltaName, window: KeptWindow): Promise<void>;
  /**
   * Deletes windows of other deltas than this one until those of the others take at most so many bytes: all of a delta, the one first whose
   * last window is the oldest. They are made again in their turn.
   */
  makeRoomFor(delta: DeltaName, maxOtherBytes: number): Promise<void>;
  /** Deletes the windows of all deltas but these. */
  forgetOthers(kept: readonly DeltaName[]): Promise<void>;
}

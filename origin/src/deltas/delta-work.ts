import type { DeltaName } from '@sitecast/shared/release';
import type { DeltaJob } from './job.ts';
import type { MadeWindow, WindowPlace } from './maker-port.ts';

/** A window as it is kept until its delta is published. */
export type KeptWindow = WindowPlace & Pick<MadeWindow, 'frameBytes'> & { patch: Buffer | undefined };

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
  windows(delta: DeltaName): Promise<KeptWindow[]>;
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

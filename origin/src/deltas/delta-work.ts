import type { DeltaName } from '@sitecast/shared/release';
import type { DeltaJob } from './job.ts';
import type { MadeWindow, WindowPlace } from './maker-port.ts';

/** A finished window that is kept until its delta is published. */
export type KeptWindow = WindowPlace & Pick<MadeWindow, 'frameBytes'> & { patch: Buffer | undefined };

/** A finished window, without its patch. */
export type FinishedWindow = Omit<KeptWindow, 'patch'> & {
  /** Undefined: there is no patch, and devices fetch its chunks. */
  patchLength: number | undefined;
};

/**
 * Where the work on deltas is stored: the jobs, and the finished windows of unfinished deltas. Only one origin at a time may change it.
 *
 * Errors: SITECAST_NO_SPACE for a full disk or quota; otherwise the system's own.
 */
export interface DeltaWork {
  /** The jobs as last saved. An unreadable file counts as no jobs: `tend` finds again what rollouts need. */
  jobs(): Promise<DeltaJob[]>;
  /** Replaces all jobs, durably. */
  saveJobs(jobs: readonly DeltaJob[]): Promise<void>;
  /** The windows that were kept, in no order. A damaged one is left out, so it will be made again. */
  windows(delta: DeltaName): Promise<FinishedWindow[]>;
  /** The patch of a window that was kept. @returns undefined where it is lost or damaged, or there is none */
  patch(delta: DeltaName, firstChunk: number): Promise<Buffer | undefined>;
  /** Durable when it resolves. */
  keepWindow(delta: DeltaName, window: KeptWindow): Promise<void>;
  /**
   * Deletes windows of other deltas until those take at most `maxOtherBytes`. It deletes whole deltas, first the one whose latest window is
   * oldest. Their windows are made again when it's their turn.
   */
  makeRoomFor(delta: DeltaName, maxOtherBytes: number): Promise<void>;
  /** Deletes the windows of all other deltas. */
  forgetOthers(kept: readonly DeltaName[]): Promise<void>;
}

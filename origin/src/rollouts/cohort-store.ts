import type { RollbackProgress } from '@sitecast/shared/api';
import type { Rollout } from '@sitecast/shared/fleet';
import { z } from 'zod';
import type { RolloutStats } from './controller/state.ts';
import type { RolloutRecord } from './record.ts';
import type { RolloutProgress, StatusQuery, StatusSources } from './status.ts';

/** Ids in one row of a frozen cohort. */
export const IDS_A_ROW = 10_000;
export const cohortRowSchema = z.object({ stage: z.int().min(0), ids: z.array(z.string()).max(IDS_A_ROW) });
export type CohortRow = z.infer<typeof cohortRowSchema>;

/** What is written of rollouts in one commit. */
export interface CohortChange {
  records?: readonly RolloutRecord[];
  /** Ids of rollouts whose records are deleted. */
  forgotten?: readonly string[];
  /** The newcomers of a stage, as they are frozen for it. They are in the cohort once the record says that the stage has begun. */
  frozen?: { rolloutId: string; stage: number; ids: readonly string[] };
  /** Cohorts that are deleted: of one stage, or of the whole rollout. */
  thawed?: readonly { rolloutId: string; stage?: number }[];
}

/** A cohort at the start of a stage. */
export interface StageCohort {
  /** As it is signed. */
  cohort: Rollout['cohort'];
  /** Ids of the devices that come in with the stage. */
  joined: string[];
}

/** The devices of an ended rollout, if it were reopened. */
export interface Recount {
  ids: string[];
  stats: RolloutStats;
  /** Devices that run its release, but have reported nothing about it: they aren't among them. */
  others: number;
}

/**
 * The records of rollouts, the cohorts of their stages, and what the devices in them count as. The origin that has the lead changes them
 * and marks devices as overdue; several origins may ask at once. Answers follow reports, revocations and changes of records as of each
 * commit, whichever origin made it.
 */
export interface CohortStore {
  /** All records, newest first, as far as this origin knows by now; no disk is asked. */
  records(): readonly RolloutRecord[];
  record(rolloutId: string): RolloutRecord | undefined;
  /**
   * All of the change is durable when this resolves, or none of it is there.
   * @throws SITECAST_NO_SPACE, SITECAST_STATE_UNWRITABLE
   */
  change(change: CohortChange): Promise<void>;
  /** Deletes cohorts of rollouts that have ended, as an earlier version has left them behind. */
  sweep(): Promise<void>;

  /** What the devices count as; undefined for a rollout that isn't under way. @throws SITECAST_STATE_DAMAGED */
  stats(rolloutId: string): Promise<RolloutStats | undefined>;
  /**
   * The cohort of a stage, if it began now. Nothing is frozen by asking.
   * @param signed the rollout as it is published
   * @throws SITECAST_STATE_DAMAGED
   */
  stageCohort(record: RolloutRecord, signed: Rollout, stage: number, nowMs: number): Promise<StageCohort>;
  /**
   * Marks the devices that are past the deadline of an active rollout, until they report.
   * @param isBusy whether a device shows in another way that it is at work on the rollout
   * @throws SITECAST_STATE_DAMAGED
   */
  markOverdue(rolloutId: string, nowMs: number, isBusy: (deviceId: string) => boolean): Promise<void>;
  /**
   * How far the devices of the cohort, and latecomers, are on the way back; undefined for a rollout that isn't under way.
   * @throws SITECAST_STATE_DAMAGED
   */
  rollbackProgress(rolloutId: string): Promise<RollbackProgress | undefined>;
  /**
   * The devices that an ended rollout would concern if it were reopened. A device that runs another release by now, or got this one in
   * another way, isn't among them: it neither rolls back nor reports that it did.
   * @throws SITECAST_STATE_DAMAGED
   */
  recount(record: RolloutRecord): Promise<Recount>;
  /** The state of each device that the rollout reaches or that has reported about it: counts, and one page. @throws SITECAST_STATE_DAMAGED */
  statusPage(record: RolloutRecord, query: StatusQuery, sources: StatusSources): Promise<RolloutProgress>;
}

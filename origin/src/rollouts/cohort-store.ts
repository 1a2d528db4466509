import type { RollbackProgress } from '@sitecast/shared/api';
import type { Rollout } from '@sitecast/shared/fleet';
import { z } from 'zod';
import type { RolloutStats } from './controller/state.ts';
import type { RolloutRecord } from './record.ts';
import type { RolloutProgress, StatusQuery, StatusSources } from './status.ts';

/** How many ids one row of a frozen cohort holds. */
export const IDS_A_ROW = 10_000;
export const cohortRowSchema = z.object({ stage: z.int().min(0), ids: z.array(z.string()).max(IDS_A_ROW) });
export type CohortRow = z.infer<typeof cohortRowSchema>;

/** What is written of rollouts in one commit. */
export interface CohortChange {
  records?: readonly RolloutRecord[];
  /** Ids of rollouts whose records are deleted. */
  forgotten?: readonly string[];
  /** The new devices of a stage. They belong to the cohort as soon as the record says that the stage has begun. */
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
 * The records of rollouts, the cohorts of their stages, and the status of the devices in them. Only the origin with the lead changes them
 * and marks devices as overdue; several origins may read at once. Answers reflect reports, revocations and changes of records of every
 * commit, whichever origin made it.
 */
export interface CohortStore {
  /** All records known to this origin, newest first; without disk access. */
  records(): readonly RolloutRecord[];
  record(rolloutId: string): RolloutRecord | undefined;
  /**
   * When this resolves, either all of the change is durable or none of it.
   * @throws SITECAST_NO_SPACE, SITECAST_STATE_UNWRITABLE
   */
  change(change: CohortChange): Promise<void>;
  /** Deletes cohorts of rollouts that have ended, as an earlier version has left them behind. */
  sweep(): Promise<void>;

  /** What the devices count as; undefined for a rollout that isn't under way. @throws SITECAST_STATE_DAMAGED */
  stats(rolloutId: string): Promise<RolloutStats | undefined>;
  /**
   * The cohort of a stage if the stage began now. Nothing is frozen.
   * @param signed the rollout as it is published
   * @throws SITECAST_STATE_DAMAGED
   */
  stageCohort(record: RolloutRecord, signed: Rollout, stage: number, nowMs: number): Promise<StageCohort>;
  /**
   * Marks the devices that are past the deadline of an active rollout, until they report.
   * @param isBusy whether something other than a report shows that a device is working on the rollout
   * @throws SITECAST_STATE_DAMAGED
   */
  markOverdue(rolloutId: string, nowMs: number, isBusy: (deviceId: string) => boolean): Promise<void>;
  /**
   * How many devices of the cohort, and latecomers, are on the way back; undefined for a rollout that isn't under way.
   * @throws SITECAST_STATE_DAMAGED
   */
  rollbackProgress(rolloutId: string): Promise<RollbackProgress | undefined>;
  /**
   * The devices that an ended rollout would concern if it were reopened. A device that runs another release by now, or got this one in
   * another way, isn't included: it would neither roll back nor report that it did.
   * @throws SITECAST_STATE_DAMAGED
   */
  recount(record: RolloutRecord): Promise<Recount>;
  /** The state of each device that the rollout reaches or that has reported about it: counts, and one page. @throws SITECAST_STATE_DAMAGED */
  statusPage(record: RolloutRecord, query: StatusQuery, sources: StatusSources): Promise<RolloutProgress>;
}

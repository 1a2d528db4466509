import { z } from 'zod';
import type { Outcome } from '../fleet/outcome.ts';
import type { RolloutRecord } from './record.ts';

/** Ids in one row of a frozen cohort. */
export const IDS_A_ROW = 10_000;
export const cohortRowSchema = z.object({ stage: z.int().min(0), ids: z.array(z.string()).max(IDS_A_ROW) });
export type CohortRow = z.infer<typeof cohortRowSchema>;

/** What is written of rollouts in one commit. */
export interface CohortChange {
  records?: readonly RolloutRecord[];
  /** Ids of rollouts whose records are deleted. */
  forgotten?: readonly string[];
  /** The newcomers of a stage, as they are frozen when it begins. */
  frozen?: { rolloutId: string; stage: number; ids: readonly string[] };
  /** Cohorts that are deleted: of one stage, or of the whole rollout. */
  thawed?: readonly { rolloutId: string; stage?: number }[];
}

/**
 * Where the records of rollouts, the cohorts of their stages, and what devices have reported about them are kept. The origin that publishes
 * is the only one that changes them; any may read.
 */
export interface CohortStore {
  /** @throws SITECAST_STATE_DAMAGED */
  records(): Promise<RolloutRecord[]>;
  /**
   * All of the change is durable when this resolves, or none of it is there.
   * @throws SITECAST_NO_SPACE, SITECAST_STATE_UNWRITABLE
   */
  change(change: CohortChange): Promise<void>;
  /** The frozen newcomers of each stage of a rollout, in the order of stages. @throws SITECAST_STATE_DAMAGED */
  cohort(rolloutId: string): Promise<CohortRow[]>;
  /** Ids of rollouts of which a cohort is stored. */
  frozenRollouts(): Promise<Set<string>>;
  /** What devices have reported about a rollout, by device. @throws SITECAST_STATE_DAMAGED */
  outcomes(rolloutId: string): Promise<Map<string, Outcome>>;
}

import {
  type RolloutFigures,
  type RolloutPlan,
  rolloutPlanSchema,
  rolloutStopSchema,
  type Stage,
  STOP_REASONS,
} from '@sitecast/shared/api';
import { ROLLOUT_STATES } from '@sitecast/shared/fleet';
import { z } from 'zod';

const MAX_BASIS_POINTS = 10_000;
const DEFAULT_SOAK_MS = 4 * 3_600_000;

export const PLAN_DEFAULTS = {
  stages: [100, 1000, 5000, MAX_BASIS_POINTS].map(basisPoints => ({ basisPoints, soakMs: DEFAULT_SOAK_MS })),
  maxFailuresBasisPoints: 500,
  minFailures: 2,
  onFailure: 'rollback',
  silentAfterMs: 24 * 3_600_000,
  soakMs: DEFAULT_SOAK_MS,
  lastStageSoaks: true,
} as const;

/** All devices in one stage, which soaks only if the operator says so. */
export const ALL_AT_ONCE: Stage = { basisPoints: MAX_BASIS_POINTS, soakMs: 0 };

/** How long a stage soaks once its devices have succeeded. */
export function soakMsOf(plan: RolloutPlan, stage: number): number {
  const { stages, lastStageSoaks } = plan;
  const isWithout = isLastStage(plan, stage) && lastStageSoaks !== true;
  return isWithout ? 0 : (stages[stage]?.soakMs ?? 0);
}

export function isLastStage({ stages }: Pick<RolloutPlan, 'stages'>, stage: number): boolean {
  return stage >= stages.length - 1;
}

/** Counts of a cohort's devices. `RolloutFigures` says what each of them counts; two words differ there. */
export interface RolloutStats extends Omit<RolloutFigures, 'well' | 'wellJoined' | 'gone' | 'lateWell'> {
  succeeded: number;
  joinedSucceeded: number;
  lateSucceeded: number;
  decommissioned: number;
}

/** The counts by the names with which they are stored and sent. */
export function figuresOf(stats: RolloutStats): RolloutFigures {
  return {
    members: stats.members,
    sites: stats.sites,
    joined: stats.joined,
    wellJoined: stats.joinedSucceeded,
    well: stats.succeeded,
    failed: stats.failed,
    blocked: stats.blocked,
    returned: stats.returned,
    running: stats.running,
    waiting: stats.waiting,
    pending: stats.pending,
    gone: stats.decommissioned,
    failedSites: stats.failedSites,
    silent: stats.silent,
    unreachable: stats.unreachable,
    late: stats.late,
    lateWell: stats.lateSucceeded,
  };
}

/** Why the rollout isn't active. */
const stopSchema = z.object({ ...rolloutStopSchema.shape, why: z.enum(STOP_REASONS) });
export type StopReason = (typeof STOP_REASONS)[number];

const countSchema = z.int().min(0);

/** What the controller remembers of a rollout. Plain JSON. What devices have reported isn't in it: the stats hold that. */
export const controllerStateSchema = z.object({
  plan: rolloutPlanSchema,
  phase: z.enum(ROLLOUT_STATES),
  attempt: z.int().min(1),
  /** Index of the current stage. */
  stage: countSchema,
  stageStartedAt: z.iso.datetime(),
  /** Since when the current stage has been active without a break. Silence is counted from then at the earliest. */
  activeSince: z.iso.datetime(),
  /** When the last device that the stage waits for had ended: the soak begins then. */
  settledAt: z.iso.datetime().exactOptional(),
  /** Whether the stages before have soaked: an operator's `advance` may have cut that short. */
  hasSoaked: z.literal(true).exactOptional(),
  stop: stopSchema.exactOptional(),
  /** While it rolls back: to this release, instead of the one that each device came from. */
  rollbackTo: z.object({ counter: z.int().min(0), version: z.string() }).exactOptional(),
  /** What an operator has acknowledged: it stops nothing any more. */
  excused: z.object({ failed: countSchema, silent: countSchema }),
});
export type ControllerState = z.infer<typeof controllerStateSchema>;

/** The state in which a rollout begins: in its first stage. */
export function newControllerState(plan: RolloutPlan, nowMs: number): ControllerState {
  const at = new Date(nowMs).toISOString();
  return {
    plan,
    phase: 'active',
    attempt: 1,
    stage: 0,
    stageStartedAt: at,
    activeSince: at,
    excused: { failed: 0, silent: 0 },
  };
}

/** The deadline of a device without a report since `heardMs`. */
export function deadlineMsOf({ activeSince, plan }: ControllerState, heardMs: number | undefined): number {
  return Math.max(Date.parse(activeSince), heardMs ?? 0) + plan.silentAfterMs;
}

import { z } from 'zod';

/** Stages of one rollout, the canaries' among them. */
export const MAX_STAGES = 20;
const MAX_BASIS_POINTS = 10_000;
/** A year: longer than any soak or silence that is meant. */
export const MAX_PLAN_MS = 365 * 86_400_000;

const DEFAULT_SOAK_MS = 4 * 3_600_000;

const stageSchema = z.object({
  /** Share of the devices that the rollout is for, ten-thousandths, rounded up; 0: the canaries alone. */
  basisPoints: z.int().min(0).max(MAX_BASIS_POINTS),
  /** How long everything must have been well before the next stage begins, or the rollout is completed. */
  soakMs: z.int().min(0).max(MAX_PLAN_MS),
});
export type Stage = z.infer<typeof stageSchema>;

/** How a rollout grows, and what stops it. It doesn't change once the rollout has been started. */
export const planSchema = z.object({
  stages: z.array(stageSchema).min(1).max(MAX_STAGES),
  /** More failures than this share of the cohort are too many. */
  maxFailuresBasisPoints: z.int().min(0).max(MAX_BASIS_POINTS),
  /** With fewer signed failures it never goes back by itself: it pauses. */
  minFailures: z.int().min(1).max(1_000_000),
  onFailure: z.enum(['rollback', 'pause']),
  /** How long a device that has started may say nothing; and how long a stage waits for those that can't be reached. */
  silentAfterMs: z.int().min(60_000).max(MAX_PLAN_MS),
  /** Not in a plan of 0.1.0: such a rollout goes on as it was meant, and is completed once its last device is well. */
  lastStageSoaks: z.literal(true).exactOptional(),
});
export type Plan = z.infer<typeof planSchema>;

export const PLAN_DEFAULTS = {
  stages: [100, 1000, 5000, MAX_BASIS_POINTS].map(basisPoints => ({ basisPoints, soakMs: DEFAULT_SOAK_MS })),
  maxFailuresBasisPoints: 500,
  minFailures: 2,
  onFailure: 'rollback',
  silentAfterMs: 24 * 3_600_000,
  soakMs: DEFAULT_SOAK_MS,
  lastStageSoaks: true,
} as const;

/** Everybody in one stage; it soaks only if that is said. */
export const ALL_AT_ONCE: Stage = { basisPoints: MAX_BASIS_POINTS, soakMs: 0 };

/** How long the devices of a stage must have been well. */
export function soakMsOf(plan: Plan, stage: number): number {
  const { stages, lastStageSoaks } = plan;
  const isWithout = isLastStage(plan, stage) && lastStageSoaks !== true;
  return isWithout ? 0 : (stages[stage]?.soakMs ?? 0);
}

export function isLastStage({ stages }: Plan, stage: number): boolean {
  return stage >= stages.length - 1;
}

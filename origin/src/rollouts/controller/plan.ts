import type { RolloutPlan, Stage } from '@sitecast/shared/api';

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

/** Everybody in one stage; it soaks only if that is said. */
export const ALL_AT_ONCE: Stage = { basisPoints: MAX_BASIS_POINTS, soakMs: 0 };

/** How long the devices of a stage must have been well. */
export function soakMsOf(plan: RolloutPlan, stage: number): number {
  const { stages, lastStageSoaks } = plan;
  const isWithout = isLastStage(plan, stage) && lastStageSoaks !== true;
  return isWithout ? 0 : (stages[stage]?.soakMs ?? 0);
}

export function isLastStage({ stages }: RolloutPlan, stage: number): boolean {
  return stage >= stages.length - 1;
}

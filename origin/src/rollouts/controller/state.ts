import {
  type RolloutFigures,
  type RolloutPlan,
  rolloutPlanSchema,
  rolloutStopSchema,
  STOP_REASONS,
} from '@sitecast/shared/api';
import { ROLLOUT_STATES, type RolloutState } from '@sitecast/shared/fleet';
import { z } from 'zod';

/** As the signed file names it. */
export type Phase = RolloutState;
export type Figures = RolloutFigures;

const countSchema = z.int().min(0);

/** Why it isn't active. */
const stopSchema = z.object({ ...rolloutStopSchema.shape, why: z.enum(STOP_REASONS) });

/** What the controller remembers of a rollout. Plain JSON; what devices have said isn't in it, but in the figures. */
export const controllerStateSchema = z.object({
  plan: rolloutPlanSchema,
  phase: z.enum(ROLLOUT_STATES),
  attempt: z.int().min(1),
  /** Index of the current one. */
  stage: countSchema,
  stageStartedAt: z.iso.datetime(),
  /** Since when the current stage goes on without a break: silence is counted from then at the earliest. */
  activeSince: z.iso.datetime(),
  /** When the last device that the stage waits for had ended: from then on it soaks. */
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

/** A rollout's beginning: its first stage begins with it. */
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

/** When a device that says nothing any more is past the deadline. */
export function overdueMs({ activeSince, plan }: ControllerState, heardMs: number | undefined): number {
  return Math.max(Date.parse(activeSince), heardMs ?? 0) + plan.silentAfterMs;
}

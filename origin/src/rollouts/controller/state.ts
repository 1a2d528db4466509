import { z } from 'zod';
import { planSchema } from './plan.ts';

/** As the signed file names it. */
export const PHASES = ['active', 'paused', 'aborted', 'completed', 'rollingBack'] as const;
export type Phase = (typeof PHASES)[number];

const countSchema = z.int().min(0);

/**
 * Where the cohort stands: counts of devices. Each member of the cohort is in exactly one of `well`, `failed`,
 * `blocked`, `returned`, `running`, `waiting`, `pending`, `gone`.
 */
export const figuresSchema = z.object({
  /** Devices in the cohort, as it was frozen when the current stage began; and the sites they're at. */
  members: countSchema,
  sites: countSchema,
  /** Those that came in with the current stage, and how many of them are well. */
  joined: countSchema,
  wellJoined: countSchema,
  well: countSchema,
  /** Signed failures of this attempt, and at how many sites. */
  failed: countSchema,
  failedSites: countSchema,
  blocked: countSchema,
  /** Back at the release before, as they were told to. */
  returned: countSchema,
  running: countSchema,
  waiting: countSchema,
  pending: countSchema,
  /** Revoked. */
  gone: countSchema,
  /** Of the running: nothing came from them past the deadline, though their gateway spoke for others. */
  silent: countSchema,
  /** Of the running, waiting and pending: nothing came from them past the deadline, and the site may be the reason. */
  unreachable: countSchema,
  /** Devices that aren't in the frozen cohort and report nevertheless: they came after the last stage began. */
  late: countSchema,
  lateWell: countSchema,
});
export type Figures = z.infer<typeof figuresSchema>;

/** Why it isn't active. */
const stopSchema = z.object({
  why: z.enum(['operator', 'failures', 'silence']),
  by: z.string(),
  at: z.iso.datetime(),
  figures: figuresSchema,
});

/** What the controller remembers of a rollout. Plain JSON; what devices have said isn't in it, but in the figures. */
export const controllerStateSchema = z.object({
  plan: planSchema,
  phase: z.enum(PHASES),
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
export function newControllerState(plan: z.infer<typeof planSchema>, nowMs: number): ControllerState {
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

import { z } from 'zod';
import { givenTagsSchema, idSchema, instantSchema, rolloutIdSchema, siteSchema } from '../fleet/fields.ts';
import { DEVICE_STATES } from '../fleet/report.ts';
import { MAX_CANARIES, MAX_SITES, ROLLOUT_STATES } from '../fleet/rollouts.ts';
import { MAX_WINDOW_CHARS } from '../fleet/window.ts';
import { counterSchema, MAX_HARDWARE, nameSchema, versionSchema } from '../release/index.ts';
import { turnSchema } from './members.ts';
import { described, extending, named, namesSchema, openEnum, releaseNameSchema } from './schemas.ts';

// The bodies of /api/v1/rollouts. What an operator orders (`RolloutSpec`) and how a rollout grows (`RolloutPlan`) have one shape
// from the command to the origin's records.

/** Stages of one rollout, the canaries' among them. */
export const MAX_STAGES = 20;
const MAX_BASIS_POINTS = 10_000;
/** A year: longer than any intended soak or silence. */
export const MAX_PLAN_MS = 365 * 86_400_000;

export const OPERATOR_ACTS = [
  'pause',
  'resume',
  'abort',
  'rollback',
  'advance',
  'retry',
  'complete',
] as const;
export type OperatorAct = (typeof OPERATOR_ACTS)[number];

/** `pending`: nothing was reported yet; `revoked`: the device was revoked before it ended. */
export const ROLLOUT_DEVICE_STATES = [...DEVICE_STATES, 'pending', 'revoked'] as const;
export type RolloutDeviceState = (typeof ROLLOUT_DEVICE_STATES)[number];

const stageSchema = z.object({
  /** Share of the devices that match, in ten-thousandths, rounded up; 0: the canaries alone. */
  basisPoints: z.int().min(0).max(MAX_BASIS_POINTS),
  /** How long all devices must have succeeded before the next stage begins or the rollout is completed. */
  soakMs: z.int().min(0).max(MAX_PLAN_MS),
});
export type Stage = z.infer<typeof stageSchema>;

/** How a rollout grows, and what stops it. It doesn't change once the rollout has been started. */
export const rolloutPlanSchema = z.object({
  stages: z.array(stageSchema).min(1).max(MAX_STAGES),
  /** More failures than this share of the cohort are too many. */
  maxFailuresBasisPoints: z.int().min(0).max(MAX_BASIS_POINTS),
  /** With fewer signed failures the rollout doesn't roll back by itself: it pauses. */
  minFailures: z.int().min(1).max(1_000_000),
  onFailure: z.enum(['rollback', 'pause']),
  /** How long a device that has begun may be silent, and how long a stage waits for devices that can't be reached. */
  silentAfterMs: z.int().min(60_000).max(MAX_PLAN_MS),
  /** Absent in a plan of 0.1.0: such a rollout completes without a soak, once its last device has succeeded. */
  lastStageSoaks: z.literal(true).exactOptional(),
});
export type RolloutPlan = z.infer<typeof rolloutPlanSchema>;

const countSchema = z.int().min(0);

/**
 * Counts of a cohort's devices, as they are stored and sent. Each device of the cohort is in exactly one of `well`, `failed`,
 * `blocked`, `returned`, `running`, `waiting`, `pending`, `gone`.
 */
export const rolloutFiguresSchema = z.object({
  /** Devices in the cohort, as it was frozen when the current stage began; and their sites. */
  members: countSchema,
  sites: countSchema,
  /** Devices that came in with the current stage, and how many of them have succeeded. */
  joined: countSchema,
  wellJoined: countSchema,
  well: countSchema,
  /** Signed failures of this attempt, and at how many sites. */
  failed: countSchema,
  failedSites: countSchema,
  blocked: countSchema,
  /** Back at the release before, as ordered. */
  returned: countSchema,
  running: countSchema,
  waiting: countSchema,
  pending: countSchema,
  /** Revoked. */
  gone: countSchema,
  /** Of the running: past the deadline without a report, though their gateway brought reports of others. */
  silent: countSchema,
  /** Of the running, waiting and pending: past the deadline without a report, and the site may be the reason. */
  unreachable: countSchema,
  /** Devices outside of the frozen cohort that report nevertheless: they enrolled after the last stage began. */
  late: countSchema,
  lateWell: countSchema,
});
export type RolloutFigures = z.infer<typeof rolloutFiguresSchema>;

/** Of a rollout that is rolled back: counts of devices, latecomers included. */
export const rollbackProgressSchema = z.object({
  /** Devices that run the release or are on the way to it, and have not reported that they can't roll back. */
  left: countSchema,
  /** Of `left`: those outside of the cohort. */
  lateLeft: countSchema,
  /** Devices that run the release and can't roll back, or failed on the way back. */
  stuck: countSchema,
  returned: countSchema,
});
export type RollbackProgress = z.infer<typeof rollbackProgressSchema>;

export const STOP_REASONS = ['operator', 'failures', 'silence'] as const;

const shownPlanSchema = named(
  'RolloutPlan',
  z.object({
    ...rolloutPlanSchema.shape,
    stages: z.array(z.object({ basisPoints: z.int(), soakMs: z.int() })),
    onFailure: openEnum(['rollback', 'pause']),
  }),
);

/** Why a rollout isn't active, and its figures at that time. */
export const rolloutStopSchema = z.object({
  why: openEnum(STOP_REASONS),
  by: z.string(),
  at: z.iso.datetime(),
  figures: rolloutFiguresSchema,
});

const rollbackToSchema = described(
  'Where a rollback leads, if not to the release that each device came from.',
  releaseNameSchema,
);

const deltasBySchema = described(
  'Until when devices that pay for bytes wait for deltas at most, while any is still to come.',
  z.string().optional(),
);

export const rolloutSchema = named(
  'Rollout',
  z.object({
    id: z.string(),
    product: z.string(),
    release: z.object({ counter: z.int(), version: z.string(), manifestSha256: z.string() }),
    state: openEnum(ROLLOUT_STATES),
    match: z.object({
      hardware: z.array(z.string()).optional(),
      sites: z.array(z.string()).optional(),
      tags: z.record(z.string(), z.string()).optional(),
      fromCounter: z.object({ min: z.int(), max: z.int() }).optional(),
    }),
    attempt: z.int(),
    createdAt: z.string(),
    startedBy: z.string(),
    plan: shownPlanSchema,
    stage: described('Index of the current stage in the plan.', z.int()),
    stageStartedAt: z.string(),
    settledAt: described('Since when the stage soaks.', z.string().optional()),
    stop: rolloutStopSchema.optional(),
    rollbackTo: rollbackToSchema.optional(),
    window: z.string().optional(),
    download: z.string().optional(),
    notBefore: z.string().optional(),
    deltasBy: deltasBySchema,
    offlineForMs: z.int(),
    maxDownBasisPoints: z.int(),
    allowWithoutGateway: z.boolean().optional(),
    changes: z.array(
      z.object({
        at: z.string(),
        by: z.string(),
        state: z.string(),
        action: z.string().optional(),
        stage: z.int().optional(),
        why: z.string().optional(),
      }),
    ),
  }),
);
export type RolloutView = z.infer<typeof rolloutSchema>;

export const rolloutListSchema = z.object({ rollouts: z.array(rolloutSchema) });

/** Devices that failed with the same error on the same hardware. */
const failureGroupSchema = z.object({
  code: z.string(),
  detail: described('How the command that failed ended, such as "exit code 1".', z.string().optional()),
  hardware: z.string(),
  message: described('What the first of `devices` said.', z.string()),
  count: z.int(),
  sites: z.int(),
  devices: z.array(z.string()),
});
export type FailureGroup = z.infer<typeof failureGroupSchema>;

export const transferSchema = z.object({
  plannedBytes: z.int().optional(),
  isPlanAtMost: z.boolean().optional(),
  spentBytes: z.int(),
});

const rolloutDeviceSchema = z.object({
  id: z.string(),
  name: z.string().optional(),
  site: z.string(),
  state: openEnum(ROLLOUT_DEVICE_STATES),
  /** The device's clock; of a revoked device the origin's. Absent for a pending device. */
  at: z.string().optional(),
  reason: z.object({ code: z.string(), message: z.string() }).optional(),
  /** Of a running download. */
  progress: z.object({ doneBytes: z.int(), totalBytes: z.int() }).optional(),
  transfer: described(
    'What its update was to cost over the network by its plan (with `isPlanAtMost` at most that), and has cost: bytes that gateways sent.',
    transferSchema.optional(),
  ),
  /** Past the deadline without a report: the device alone, or its whole site. */
  overdue: openEnum(['silent', 'unreachable']).optional(),
  heard: described('It is overdue, though its gateway hears it.', z.literal(true).optional()),
});
export type RolloutDevice = z.infer<typeof rolloutDeviceSchema>;

export const rolloutStatusSchema = extending(
  { name: 'Rollout', schema: rolloutSchema },
  rolloutSchema.extend({
    counts: z.partialRecord(z.enum(ROLLOUT_DEVICE_STATES), z.int()),
    total: described('Devices that it has reached so far.', z.int()),
    matching: described('Devices that it is for, whether a stage has reached them or not.', z.int()),
    acts: described('What can be done with it now.', z.array(openEnum(OPERATOR_ACTS))),
    figures: rolloutFiguresSchema.optional(),
    deciding: described(
      'What devices have reported leads to a decision of the origin, which is on its way.',
      z.literal(true).optional(),
    ),
    back: described('While it is sent back, latecomers among them.', rollbackProgressSchema.optional()),
    failures: z.array(failureGroupSchema),
    names: namesSchema('Names of the devices in `failures` that have one, by id.'),
    devices: z.array(rolloutDeviceSchema),
    turns: described('Of its product, held now; those held longest.', z.array(turnSchema).optional()),
    nextCursor: z.string().optional(),
  }),
  'RolloutStatus',
);

const supersedesSchema = described(
  'Rollouts that soaked in their last stage: they are completed with its start.',
  z.array(z.object({ rollout: z.string(), version: z.string() })),
);

export const startedRolloutSchema = extending(
  { name: 'RolloutStatus', schema: rolloutStatusSchema },
  rolloutStatusSchema.extend({ supersedes: supersedesSchema }),
  'StartedRollout',
);

const durationMs = z.int().min(0).max(MAX_PLAN_MS);
const specStageSchema = z.strictObject({
  basisPoints: z.int().min(0).max(MAX_BASIS_POINTS),
  soakMs: durationMs.optional(),
});

/** What an operator orders. A field that is absent has a default. */
export const rolloutSpecSchema = named(
  'NewRollout',
  z
    .strictObject({
      product: nameSchema,
      version: versionSchema.optional(),
      counter: counterSchema.optional(),
      id: described('That of a dry run: the same devices come first.', rolloutIdSchema.optional()),
      match: z
        .strictObject({
          hardware: z.array(nameSchema).min(1).max(MAX_HARDWARE).optional(),
          sites: z.array(siteSchema).min(1).max(MAX_SITES).optional(),
          tags: givenTagsSchema.optional(),
          /** Labels of the releases that devices come from; both bounds are included. */
          fromVersion: z
            .strictObject({ min: versionSchema.optional(), max: versionSchema.optional() })
            .optional(),
        })
        .default({}),
      /** The canaries' stage is one of them, with 0 basis points, if it is to soak differently. */
      stages: z.array(specStageSchema).min(1).max(MAX_STAGES).optional(),
      soakMs: durationMs.optional(),
      lastSoakMs: described(
        'How long the last stage soaks before the rollout is completed; without it as the others do.',
        durationMs.optional(),
      ),
      canaries: z
        .strictObject({
          ids: z.array(idSchema).max(MAX_CANARIES).default([]),
          perSite: z.boolean().default(false),
        })
        .optional(),
      maxFailuresBasisPoints: rolloutPlanSchema.shape.maxFailuresBasisPoints.optional(),
      minFailures: rolloutPlanSchema.shape.minFailures.optional(),
      onFailure: rolloutPlanSchema.shape.onFailure.optional(),
      silentAfterMs: rolloutPlanSchema.shape.silentAfterMs.optional(),
      window: z.string().max(MAX_WINDOW_CHARS).optional(),
      download: z.enum(['anytime', 'window']).optional(),
      notBefore: instantSchema.optional(),
      offlineForMs: durationMs.optional(),
      maxDownBasisPoints: z.int().min(1).max(MAX_BASIS_POINTS).optional(),
      allAtOnce: z.boolean().default(false),
      allowDowngrade: z.boolean().default(false),
      allowWithoutGateway: described(
        'Devices whose gateways have been silent for 6 hours may go down by turns, without a lease.',
        z.boolean().default(false),
      ),
      allowUnknown: described(
        'Sites, hardware and tags may be named that nobody has yet.',
        z.boolean().default(false),
      ),
      dryRun: z.boolean().default(false),
    })
    .refine(
      ({ version, counter }) => (version === undefined) !== (counter === undefined),
      'either version or counter',
    ),
);
export type RolloutSpec = z.output<typeof rolloutSpecSchema>;
/** The same as a client sends it. */
export type RolloutSpecInput = z.input<typeof rolloutSpecSchema>;

export const rolloutDryRunSchema = named(
  'RolloutDryRun',
  z.object({
    id: z.string(),
    total: z.int(),
    plan: shownPlanSchema,
    stages: z.array(
      z.object({
        basisPoints: z.int(),
        count: described('Devices that come in with it, as the fleet is now.', z.int()),
        devices: z.array(z.string()),
      }),
    ),
    names: namesSchema('Names of these devices that have one, by id.'),
    supersedes: supersedesSchema,
    blockedBy: described(
      'A rollout under way that could reach the same devices: this one can be started once it has ended.',
      z.object({ rollout: z.string(), version: z.string(), state: openEnum(ROLLOUT_STATES) }).optional(),
    ),
    deltasBy: deltasBySchema,
    failedBefore: described(
      'On how many devices the release failed in an earlier rollout: they stay with what they run until an attempt above that.',
      z.int().optional(),
    ),
  }),
);

/** What an act would do if it were done now. */
export const rolloutPreviewSchema = named(
  'RolloutPreview',
  z.object({
    act: openEnum(OPERATOR_ACTS),
    /** Devices whose behaviour the act would change. */
    touches: z.int(),
    /** Which devices those are. */
    what: z.string(),
    /** Of `advance` and `retry`: the stage or attempt that it leads to. The act names it. */
    target: z.int().optional(),
    /** What `resume` acknowledges. */
    failed: z.int(),
    silent: z.int(),
    rollbackTo: rollbackToSchema.optional(),
  }),
);
export type RolloutPreview = z.infer<typeof rolloutPreviewSchema>;

/** POST /api/v1/rollouts/ID/ACT */
export const rolloutActSchema = z.strictObject({
  acknowledge: z.boolean().default(false),
  target: z.int().min(1).optional(),
  to: versionSchema.optional(),
});

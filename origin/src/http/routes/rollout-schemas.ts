import { z } from '@hono/zod-openapi';
import {
  DEVICE_STATES,
  idSchema,
  instantSchema,
  MAX_CANARIES,
  MAX_WINDOW_CHARS,
  rolloutIdSchema,
  siteSchema,
  givenTagsSchema,
} from '@sitecast/shared/fleet';
import { counterSchema, MAX_HARDWARE, nameSchema, versionSchema } from '@sitecast/shared/release';
import { OPERATOR_ACTS } from '../../rollouts/controller/operate.ts';
import { MAX_PLAN_MS, MAX_STAGES, planSchema } from '../../rollouts/controller/plan.ts';
import { goingBackSchema } from '../../rollouts/going-back.ts';
import { controllerStateSchema, figuresSchema, PHASES } from '../../rollouts/controller/state.ts';
import type { RolloutRecord } from '../../rollouts/record.ts';
import type { WantedRollout } from '../../rollouts/wanted.ts';
import { shownTurnSchema } from './presence.ts';

const MAX_SITES = 10_000;

export const deviceStateSchema = z.enum([...DEVICE_STATES, 'pending', 'revoked']);
export const rolloutStateSchema = z.enum(PHASES);

const releaseSchema = z.object({ counter: z.int(), version: z.string(), manifestSha256: z.string() });

const planView = z
  .object({
    ...planSchema.shape,
    stages: z.array(z.object({ basisPoints: z.int(), soakMs: z.int() })),
  })
  .openapi('RolloutPlan');

const rollbackToSchema = z
  .object({ counter: z.int(), version: z.string() })
  .openapi({ description: 'Where a rollback leads, if not to the release that each device came from.' });

export const rolloutSchema = z
  .object({
    id: z.string(),
    product: z.string(),
    release: releaseSchema,
    state: rolloutStateSchema,
    match: z.object({
      hardware: z.array(z.string()).optional(),
      sites: z.array(z.string()).optional(),
      tags: z.record(z.string(), z.string()).optional(),
      fromCounter: z.object({ min: z.int(), max: z.int() }).optional(),
    }),
    attempt: z.int(),
    createdAt: z.string(),
    startedBy: z.string(),
    plan: planView,
    stage: z.int().openapi({ description: 'Index of the current stage in the plan.' }),
    stageStartedAt: z.string(),
    settledAt: z.string().optional().openapi({ description: 'Since when the stage soaks.' }),
    stop: controllerStateSchema.shape.stop.optional(),
    rollbackTo: rollbackToSchema.optional(),
    window: z.string().optional(),
    download: z.string().optional(),
    notBefore: z.string().optional(),
    offlineForMs: z.int(),
    maxDownBasisPoints: z.int(),
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
  })
  .openapi('Rollout');

export const rolloutStatusSchema = rolloutSchema
  .extend({
    counts: z.partialRecord(deviceStateSchema, z.int()),
    total: z.int().openapi({ description: 'Devices that it has reached so far.' }),
    matching: z.int().openapi({
      description: 'Devices that it is for, whether a stage has reached them or not.',
    }),
    acts: z.array(z.enum(OPERATOR_ACTS)).openapi({ description: 'What can be done with it now.' }),
    figures: figuresSchema.optional(),
    back: goingBackSchema
      .optional()
      .openapi({ description: 'While it is sent back, latecomers among them.' }),
    failures: z.array(
      z.object({
        code: z.string(),
        detail: z.string().optional().openapi({
          description: 'How the command that failed ended, such as "exit code 1".',
        }),
        hardware: z.string(),
        message: z.string().openapi({ description: 'What the first of `devices` said.' }),
        count: z.int(),
        sites: z.int(),
        devices: z.array(z.string()),
      }),
    ),
    names: z
      .record(z.string(), z.string())
      .openapi({ description: 'Names of the devices in `failures` that have one, by id.' }),
    devices: z.array(
      z.object({
        id: z.string(),
        name: z.string().optional(),
        site: z.string(),
        state: deviceStateSchema,
        at: z.string().optional(),
        reason: z.object({ code: z.string(), message: z.string() }).optional(),
        progress: z.object({ doneBytes: z.int(), totalBytes: z.int() }).optional(),
        overdue: z.enum(['silent', 'unreachable']).optional(),
        heard: z
          .literal(true)
          .optional()
          .openapi({ description: 'It is overdue, though its gateway hears it.' }),
      }),
    ),
    turns: z
      .array(shownTurnSchema)
      .optional()
      .openapi({ description: 'Of its product, held now; those held longest.' }),
    nextCursor: z.string().optional(),
  })
  .openapi('RolloutStatus');

const supersedes = z
  .array(z.object({ rollout: z.string(), version: z.string() }))
  .openapi({ description: 'Rollouts that soaked in their last stage: they are completed with its start.' });

export const startedRolloutSchema = rolloutStatusSchema.extend({ supersedes }).openapi('StartedRollout');

const durationMs = z.int().min(0).max(MAX_PLAN_MS);
const stageWish = z.strictObject({ basisPoints: z.int().min(0).max(10_000), soakMs: durationMs.optional() });

export const newRolloutSchema = z
  .strictObject({
    product: nameSchema,
    version: versionSchema.optional(),
    counter: counterSchema.optional(),
    id: rolloutIdSchema
      .optional()
      .openapi({ description: 'That of a dry run: the same devices come first.' }),
    match: z
      .strictObject({
        hardware: z.array(nameSchema).min(1).max(MAX_HARDWARE).optional(),
        sites: z.array(siteSchema).min(1).max(MAX_SITES).optional(),
        tags: givenTagsSchema.optional(),
        fromVersion: z
          .strictObject({ min: versionSchema.optional(), max: versionSchema.optional() })
          .optional(),
      })
      .default({}),
    stages: z.array(stageWish).min(1).max(MAX_STAGES).optional(),
    soakMs: durationMs.optional(),
    lastSoakMs: durationMs.optional().openapi({
      description:
        'How long the last stage soaks before the rollout is completed; without it as the others do.',
    }),
    canaries: z
      .strictObject({
        ids: z.array(idSchema).max(MAX_CANARIES).default([]),
        perSite: z.boolean().default(false),
      })
      .optional(),
    maxFailuresBasisPoints: planSchema.shape.maxFailuresBasisPoints.optional(),
    minFailures: planSchema.shape.minFailures.optional(),
    onFailure: planSchema.shape.onFailure.optional(),
    silentAfterMs: planSchema.shape.silentAfterMs.optional(),
    window: z.string().max(MAX_WINDOW_CHARS).optional(),
    download: z.enum(['anytime', 'window']).optional(),
    notBefore: instantSchema.optional(),
    offlineForMs: durationMs.optional(),
    maxDownBasisPoints: z.int().min(1).max(10_000).optional(),
    allAtOnce: z.boolean().default(false),
    allowDowngrade: z.boolean().default(false),
    allowUnknown: z
      .boolean()
      .default(false)
      .openapi({ description: 'Sites, hardware and tags may be named that nobody has yet.' }),
    dryRun: z.boolean().default(false),
  })
  .refine(
    ({ version, counter }) => (version === undefined) !== (counter === undefined),
    'either version or counter',
  )
  .openapi('NewRollout');

export const dryRunSchema = z
  .object({
    id: z.string(),
    total: z.int(),
    plan: planView,
    stages: z.array(
      z.object({
        basisPoints: z.int(),
        count: z.int().openapi({ description: 'Devices that come in with it, as the fleet is now.' }),
        devices: z.array(z.string()),
      }),
    ),
    names: z
      .record(z.string(), z.string())
      .openapi({ description: 'Names of these devices that have one, by id.' }),
    supersedes,
    blockedBy: z
      .object({ rollout: z.string(), version: z.string(), state: rolloutStateSchema })
      .optional()
      .openapi({
        description:
          'A rollout under way that could reach the same devices: this one can be started once it has ended.',
      }),
  })
  .openapi('RolloutDryRun');

export const previewSchema = z
  .object({
    act: z.enum(OPERATOR_ACTS),
    touches: z.int(),
    what: z.string(),
    target: z.int().optional(),
    failed: z.int(),
    silent: z.int(),
    rollbackTo: rollbackToSchema.optional(),
  })
  .openapi('RolloutPreview');

export function wantedOf(body: z.infer<typeof newRolloutSchema>): WantedRollout {
  const { product, version, counter, id, match, stages, soakMs, lastSoakMs, canaries } = body;
  const { maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs } = body;
  const { window, download, notBefore, offlineForMs, maxDownBasisPoints } = body;
  return {
    product,
    release: version === undefined ? { counter: counter ?? 0 } : { version },
    id,
    match,
    stages,
    soakMs,
    lastSoakMs,
    canaries: canaries && { ids: canaries.ids, isPerSite: canaries.perSite },
    limits: { maxFailuresBasisPoints, minFailures, onFailure, silentAfterMs },
    terms: { window, download, notBefore, offlineForMs, maxDownBasisPoints },
    isAllAtOnce: body.allAtOnce,
    mayDowngrade: body.allowDowngrade,
    mayBeUnknown: body.allowUnknown,
  };
}

export function describeRollout(record: RolloutRecord): z.infer<typeof rolloutSchema> {
  const { product, rollout, startedBy, changes, controller } = record;
  const { id, release, state, match, attempt, createdAt, window, download, notBefore } = rollout;
  const { counter, version, manifestSha256 } = release;
  const { hardware, sites, tags, fromCounter } = match;
  const { plan, stage, stageStartedAt, settledAt, stop, rollbackTo } = controller;
  return {
    id,
    product,
    release: { counter, version, manifestSha256 },
    state,
    match: {
      ...(hardware && { hardware }),
      ...(sites && { sites }),
      ...(tags && { tags }),
      ...(fromCounter && { fromCounter }),
    },
    attempt,
    createdAt,
    startedBy,
    plan,
    stage,
    stageStartedAt,
    ...(settledAt !== undefined && { settledAt }),
    ...(stop && { stop }),
    ...(rollbackTo && { rollbackTo }),
    ...(window !== undefined && { window }),
    ...(download !== undefined && { download }),
    ...(notBefore !== undefined && { notBefore }),
    offlineForMs: rollout.offlineForMs,
    maxDownBasisPoints: rollout.maxDownBasisPoints,
    changes,
  };
}

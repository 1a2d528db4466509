import { MAX_CODE_CHARS, MAX_MESSAGE_CHARS } from '@sitecast/shared/fleet';
import { cutText } from '@sitecast/shared/text';
import { z } from 'zod';

export const releaseRefSchema = z.looseObject({ counter: z.int().min(0), version: z.string().max(64) });
export type KnownRelease = z.infer<typeof releaseRefSchema>;

/** Text that is shortened, not refused, if it is too long: an agent that can't read its own state wouldn't start. */
const text = (maxChars: number) => z.string().transform(found => cutText(found, maxChars));

export const reasonSchema = z.looseObject({
  code: text(MAX_CODE_CHARS),
  message: text(MAX_MESSAGE_CHARS),
});
export type Reason = z.infer<typeof reasonSchema>;

/** Code of the report of a device that went back because its rollout rolls back. The report names the release that the device went to. */
export const ROLLBACK_ORDERED = 'ordered';

const rolloutRefSchema = z.looseObject({ id: z.string().max(64), attempt: z.int().min(1) });

const hexId = z.string().regex(/^[0-9a-f]{64}$/);

/** What a slot holds, as far as the agent knows. */
const SLOT_STATES = ['empty', 'bad', 'verified', 'altered'] as const;
export const slotRecordSchema = z.looseObject({
  state: z.enum(SLOT_STATES),
  release: releaseRefSchema.optional(),
  /** SHA-256 of the index by which its image was written. */
  indexSha256: hexId.optional(),
  /** SHA-256 of the index of `release`, if something other than this agent wrote the image, such as the factory. */
  baseIndexSha256: hexId.optional(),
  lengthBytes: z.int().min(0).optional(),
  /** The image has run and was found healthy. */
  isConfirmed: z.boolean().optional(),
  /** The rollout that brought the release there. If the release fails later, that is reported for this rollout. */
  rollout: rolloutRefSchema.optional(),
});
export type SlotRecord = z.infer<typeof slotRecordSchema>;

/** Where a slot was found. A slot that vanished isn't taken for a new one. */
const slotPlaceSchema = z.looseObject({
  /** The absolute path in the settings. If that changes, nothing is known of the new path. */
  path: z.string(),
  /** False: nothing is there yet, and a file may be created. */
  isThere: z.boolean(),
  /** The mount point of the file system that holds a file slot; undefined for that of `/` and that of the agent's own data. */
  mountPoint: z.string().optional(),
});
export type SlotPlace = z.infer<typeof slotPlaceSchema>;

/** A rollout that has reached this device. */
const rolloutRecordSchema = z.looseObject({
  id: z.string().max(64),
  latchedAt: z.string().max(64),
  /** The highest attempt that has ended here, and how. */
  ended: z
    .looseObject({ attempt: z.int().min(0), outcome: z.enum(['completed', 'failed', 'rolledBack']) })
    .optional(),
  /** A gateway has answered a request for its lease with no, or "not now": this device never goes down for it without a lease. */
  leaseRefused: z.boolean().optional(),
  /** The running release before this rollout's was activated. */
  cameFrom: releaseRefSchema.optional(),
});
export type RolloutRecord = z.infer<typeof rolloutRecordSchema>;

export const barredSchema = z.looseObject({
  counter: z.int().min(1),
  version: z.string().max(64),
  attempt: z.int().min(1),
  reason: reasonSchema,
  at: z.string().max(64),
});
export type BarredRelease = z.infer<typeof barredSchema>;

/**
 * How far the update is. `downloading`: the slot is being filled. `verified`: it holds the image, and activation is next. `activating`: the
 * boot loader is being told. `rebooting`: the boot loader was told. `confirming`: the slot runs on trial. `confirmed`: the slot has passed
 * its trial, and the boot loader is being told. `fallingBack`: the slot is given up, and the other one must run again.
 */
export const updateSchema = z.looseObject({
  kind: z.enum(['install', 'rollBack']),
  rollout: rolloutRefSchema,
  release: releaseRefSchema,
  indexSha256: hexId.optional(),
  lengthBytes: z.int().min(0).optional(),
  target: z.enum(['A', 'B']),
  phase: z.enum([
    'downloading',
    'verified',
    'activating',
    'rebooting',
    'confirming',
    'confirmed',
    'fallingBack',
  ]),
  startedAt: z.string().max(64),
  /** The boot in which the boot loader was told to try or to leave the slot. */
  bootId: z.string().max(128).optional(),
  /** How many boots the loader was told to give the slot. */
  tries: z.int().min(1).optional(),
  powerLosses: z.int().min(0).optional(),
  /** How often a boot was asked for: into the slot, or out of it when falling back. */
  rebootsAsked: z.int().min(0).optional(),
  failure: reasonSchema.optional(),
  /** What the health checks noted before the boot. */
  healthNotes: z
    .looseObject({ isGatewayReached: z.boolean().optional(), interfaces: z.int().min(0).optional() })
    .optional(),
});
export type Update = z.infer<typeof updateSchema>;

/** Whether both are about the same attempt to bring the same release into the same slot. */
export function isSameUpdate(
  one: Pick<Update, 'kind' | 'rollout' | 'release'>,
  other: Pick<Update, 'kind' | 'rollout' | 'release'>,
): boolean {
  return (
    one.kind === other.kind &&
    one.rollout.id === other.rollout.id &&
    one.rollout.attempt === other.rollout.attempt &&
    one.release.counter === other.release.counter
  );
}

export const lastFailureSchema = z.looseObject({
  at: z.string().max(64),
  reason: reasonSchema,
  release: releaseRefSchema.optional(),
});

export const MAX_REMEMBERED_ROLLOUTS = 128;
export const MAX_BARRED = 128;

/**
 * What the agent stores besides its reports and the trusted metadata. Unknown fields are kept: after a fall-back an older release of the
 * agent reads this state, and a newer one reads it again later.
 */
export const agentStateSchema = z.looseObject({
  format: z.literal('sitecast-agent-state-1'),
  slots: z.looseObject({ A: slotRecordSchema, B: slotRecordSchema }),
  update: updateSchema.nullable(),
  rollouts: z.array(rolloutRecordSchema),
  barred: z.array(barredSchema),
  lastActivationAt: z.string().max(64).optional(),
  lastFailure: lastFailureSchema.optional(),
  /** The origin's newest statement about this device, as signed. */
  assignment: z.unknown().optional(),
  /** The nonce of the enrolment, so that a repeated request is the same. */
  enrolmentNonce: z.string().max(64).optional(),
  /** How long no gateway has answered, in ms: see `GatewaySilence`. */
  silentMs: z.number().min(0).optional().catch(undefined),
  /** The last known booted slot. */
  booted: z.enum(['A', 'B']).optional(),
  /** Boots that were asked for to leave a slot that isn't the one that ran last; only while such a slot runs. */
  returns: z
    .looseObject({
      count: z.int().min(0),
      /** The boot in which the last one was asked for. */
      bootId: z.string().max(128),
    })
    .optional()
    .catch(undefined),
  slotPlaces: z.looseObject({ A: slotPlaceSchema.optional(), B: slotPlaceSchema.optional() }).optional(),
});
export type AgentState = z.infer<typeof agentStateSchema>;

/** Where a slot was found before. A version that stored no places still stored what it had installed there. */
export function placeIn(
  { slotPlaces, slots }: AgentState,
  name: 'A' | 'B',
  path: string,
): SlotPlace | undefined {
  const { state } = slots[name];
  const hasHeld = state === 'verified' || state === 'altered';
  return slotPlaces?.[name] ?? (hasHeld ? { path, isThere: true } : undefined);
}

export function newAgentState(): AgentState {
  return {
    format: 'sitecast-agent-state-1',
    slots: { A: { state: 'empty' }, B: { state: 'empty' } },
    update: null,
    rollouts: [],
    barred: [],
  };
}

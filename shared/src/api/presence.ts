import { z } from 'zod';
import { nameSchema } from '../release/index.ts';
import { idSchema, rolloutIdSchema } from '../fleet/fields.ts';

// Senders: enrolled gateways, a stolen one among them. The worst message names devices of its own site as heard that aren't, or as
// gone that aren't, and turns that no device holds. People look at it; nothing is decided by it.

export const PRESENCE_PATH = '/site/v1/presence';
/** How long a device counts as heard after a signed request, a long poll or an admitted connection: longer than three polls. */
export const HEARD_FOR_MS = 3 * 60_000;
/** The longest interval between a gateway's messages, with or without changes. */
export const TELL_EVERY_MS = 60_000;
/** Ids in one message. The sender counts `heard` and `gone` together. */
export const MAX_PRESENCE_IDS = 1000;
/** The longest possible message is shorter than this. */
export const MAX_PRESENCE_BODY_BYTES = 256 * 1024;
/** Turns in one message: those held longest. */
export const MAX_TOLD_TURNS = 64;
/** Troubles in one message. */
export const MAX_TOLD_TROUBLES = 8;
export const MAX_TROUBLE_CHARS = 400;
/** How long a device may be down before it asks again: longer than its reboot and health checks take. */
export const LEASE_MS = 15 * 60_000;
/** How long a device may hold leases of one rollout and attempt without a break, renewals included. */
export const MAX_LEASES_HELD_MS = 2 * 3_600_000;
const MAX_AGE_S = 10 * 365 * 86_400;

const secondsSchema = z.int().min(0).max(MAX_AGE_S);

/** A device that may be down for an update. Others of its product wait for it. */
const turnSchema = z.object({
  id: idSchema,
  product: nameSchema,
  rollout: rolloutIdSchema,
  /** Without a break. Absent from a gateway of an earlier version. */
  heldS: secondsSchema.exactOptional(),
  /** Until the turn ends, unless the device renews it. */
  leftS: secondsSchema,
});

/**
 * The form of an id. Whether it encodes a key isn't checked: that costs too much for thousands of ids, and the reader skips unknown
 * ids.
 */
const toldIdSchema = z.string().regex(/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/, 'the id of a device (12D3KooW…)');

/** A list whose length is checked before its items. */
const upTo = <T extends z.ZodType>(max: number, item: T) => z.array(z.unknown()).max(max).pipe(z.array(item));

/** What people should know of a gateway that goes on all the same. */
const troubleSchema = z.object({
  code: z.string().regex(/^[A-Z][A-Z0-9_]{2,63}$/),
  detail: z.string().max(MAX_TROUBLE_CHARS),
});
export type ToldTrouble = z.infer<typeof troubleSchema>;

/**
 * Which devices a gateway hears: the changes since the last answered message. Messages are idempotent: after an unanswered message
 * the next one has the same number and names every id of it again.
 */
export const presenceSchema = z.object({
  /** Random id of a sequence of messages that began with an empty list: 16 hexadecimal digits. */
  session: z.string().regex(/^[0-9a-f]{16}$/),
  /** From 1 in each session: one more than the last answered message's. */
  seq: z.int().min(1),
  /** Devices that are heard now and weren't before. */
  heard: upTo(MAX_PRESENCE_IDS, toldIdSchema),
  /** Devices that are no longer heard, and the seconds since they were heard last. */
  gone: upTo(MAX_PRESENCE_IDS, z.object({ id: toldIdSchema, ageS: secondsSchema })),
  /** With this message the list is complete: a device outside of it has had time to be heard, and wasn't. */
  isWhole: z.boolean(),
  /** All turns, in each message. */
  turns: upTo(MAX_TOLD_TURNS, turnSchema),
  /** Version of the timestamp that this gateway serves. Absent from one of an earlier version, and before it serves any. */
  timestampVersion: z.int().min(1).exactOptional(),
  /** All that there are now, in each message. */
  troubles: upTo(MAX_TOLD_TROUBLES, troubleSchema).exactOptional(),
});
export type Presence = z.infer<typeof presenceSchema>;

/** What the gateway sends next: the changes from here on, or everything anew, because the origin has lost its place. */
export const presenceAnswerSchema = z.object({ next: z.enum(['changes', 'whole']) });
export type PresenceAnswer = z.infer<typeof presenceAnswerSchema>;

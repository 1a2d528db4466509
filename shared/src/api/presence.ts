import { z } from 'zod';
import { nameSchema } from '../release/index.ts';
import { idSchema, rolloutIdSchema } from '../fleet/fields.ts';

// Who can send this: an enrolled gateway, a stolen one among them. The worst message: devices of its own site that live where they
// don't, or don't where they do, and turns that nobody holds. It's for people to look at: nothing is decided by it.

export const PRESENCE_PATH = '/site/v1/presence';
/** How long a device counts as heard after a signed request, a long poll or an admitted connection: three polls, and more. */
export const HEARD_FOR_MS = 3 * 60_000;
/** A gateway speaks that often at least, whether anything has changed or not. */
export const TELL_EVERY_MS = 60_000;
/** Ids in one message, those that came and those that went counted together by the sender. */
export const MAX_PRESENCE_IDS = 1000;
/** A body of a message with as many ids and turns as there may be takes less than this. */
export const MAX_PRESENCE_BODY_BYTES = 256 * 1024;
/** Turns in one message, those that have been held the longest. */
export const MAX_TOLD_TURNS = 64;
/** How long a device may be down before it asks again: its reboot and health checks, with time to spare. */
export const LEASE_MS = 15 * 60_000;
/** How long a device may hold leases of one rollout and attempt without a break, however often it renews. */
export const MAX_LEASES_HELD_MS = 2 * 3_600_000;
const MAX_AGE_S = 10 * 365 * 86_400;

const secondsSchema = z.int().min(0).max(MAX_AGE_S);

/** A device that may be down for an update: others of its product wait for it. */
const turnSchema = z.object({
  id: idSchema,
  product: nameSchema,
  rollout: rolloutIdSchema,
  /** Without a break; not there where a gateway of an earlier version handed it out. */
  heldS: secondsSchema.exactOptional(),
  /** When it ends unless the device takes it anew. */
  leftS: secondsSchema,
});

/**
 * How an id is written. Whether there's a key behind it isn't asked: to work that out for each of thousands is dear, and an id that
 * nobody has is passed over.
 */
const toldIdSchema = z.string().regex(/^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$/, 'the id of a device (12D3KooW…)');

/** A list that is counted before anything in it is looked at. */
const upTo = <T extends z.ZodType>(max: number, item: T) => z.array(z.unknown()).max(max).pipe(z.array(item));

/**
 * Whom a gateway hears: what has changed since the last message that was answered. Said twice it's the same: a message
 * that wasn't answered is followed by one with its number, which names every id of it again.
 */
export const presenceSchema = z.object({
  /** Of one count from an empty list on: 16 hexadecimal digits, chosen by chance. */
  session: z.string().regex(/^[0-9a-f]{16}$/),
  /** From 1 in each session: one more than that of the last answered message. */
  seq: z.int().min(1),
  /** Devices that are heard now, and weren't. */
  heard: upTo(MAX_PRESENCE_IDS, toldIdSchema),
  /** Devices that were heard and aren't any more, and how long ago they were for the last time. */
  gone: upTo(MAX_PRESENCE_IDS, z.object({ id: toldIdSchema, ageS: secondsSchema })),
  /** With this message the list is whole, and whoever isn't in it has had the time to be heard. */
  isWhole: z.boolean(),
  /** All of them, each time. */
  turns: upTo(MAX_TOLD_TURNS, turnSchema),
});
export type Presence = z.infer<typeof presenceSchema>;

/** What is to come next: the changes from here on, or everything from the beginning, for the origin has lost its place. */
export const presenceAnswerSchema = z.object({ next: z.enum(['changes', 'whole']) });
export type PresenceAnswer = z.infer<typeof presenceAnswerSchema>;

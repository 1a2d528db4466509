import { z } from 'zod';
import { counterSchema, versionSchema } from '../release/index.ts';
import { described, named, openEnum, releaseNameSchema } from './schemas.ts';

// The bodies of /api/v1/products/{product}/deltas.

/** Releases that one request may name as bases. */
export const MAX_DELTA_BASES = 16;

export const DELTA_STATES = ['waiting', 'making', 'published', 'notWorth', 'failed', 'removed'] as const;

/** A delta that is made, or was asked for. */
const deltaSchema = named(
  'Delta',
  z.object({
    from: z.int(),
    to: z.int(),
    fromVersion: described('Label of the release, where it is still published.', z.string().optional()),
    toVersion: z.string().optional(),
    state: openEnum(DELTA_STATES),
    by: described('The operator who asked for it, `origin`, or `release keys`.', z.string()),
    requestedAt: described('Not of one that operators have signed.', z.string().optional()),
    signed: described(
      'True where operators have signed it with offline keys, in the top-level targets.',
      z.boolean().optional(),
    ),
    over: described(
      'True where operators have signed it, and the rollouts to its release are over: the next draft leaves it out.',
      z.boolean().optional(),
    ),
    doneBasisPoints: described('How much of the image has been gone through, in ten thousandths.', z.int()),
    patches: z.int(),
    patchBytes: z.int(),
    bytes: described('What a device fetches by it, once it is published.', z.int().optional()),
    estimatedBytes: described(
      'What a device would fetch by it, as far as what is made until now tells.',
      z.int().optional(),
    ),
    chunkBytes: described('What a device fetches without it.', z.int().optional()),
    endedAt: described(
      'When it was published, or found not to pay, or given up, or removed.',
      z.string().optional(),
    ),
    tries: z.int(),
    notBefore: z.string().optional(),
    reason: described(
      'Why making it failed, or why it was removed.',
      z.object({ code: z.string(), message: z.string() }).optional(),
    ),
  }),
);
export type DeltaView = z.infer<typeof deltaSchema>;

/** Why devices fetch more than others that run the same release. */
export const WHY_MORE = ['noDeltas', 'signedOnly', 'otherFormat', 'encoders'] as const;

/** What an update costs the devices that run a release, and their sites. */
const updateCostSchema = z.object({
  from: releaseNameSchema,
  devices: z.int(),
  by: described('`delta`, or `chunks` where there is none yet.', openEnum(['delta', 'chunks'])),
  bytes: described('What one device fetches.', z.int()),
  isEstimate: z.boolean(),
  others: described(
    'Those of the devices that fetch more: they lack what the delta needs, or use none.',
    z
      .array(
        z.object({
          devices: z.int(),
          by: openEnum(['delta', 'chunks']),
          bytes: z.int(),
          why: described(
            'Why they fetch more: they use no deltas, take only those that release keys have signed, read other formats, or lack encoders.',
            openEnum(WHY_MORE).optional(),
          ),
          lacks: described('The encoders that they lack.', z.array(z.string()).optional()),
        }),
      )
      .optional(),
  ),
});

export const deltaListSchema = z.object({
  deltas: z.array(deltaSchema),
  held: described('Why the origin makes none at the moment, although some wait.', z.string().optional()),
  cost: z
    .object({
      to: releaseNameSchema,
      imageBytes: described('An estimate of what the whole image costs, compressed.', z.int()),
      from: z.array(updateCostSchema),
      sites: described(
        'What crosses the WAN of the sites at most: what the plans of a site share crosses it once, and never more than the image does.',
        z.object({ count: z.int(), mostBytes: z.int(), allBytes: z.int(), isEstimate: z.boolean() }),
      ),
      unknown: described('Devices that have not said what they run.', z.int()),
    })
    .optional(),
});
export type UpdateCost = NonNullable<z.infer<typeof deltaListSchema>['cost']>;

const releaseSchema = z.union([
  z.strictObject({ version: versionSchema }),
  z.strictObject({ counter: counterSchema }),
]);

export const deltaRequestSchema = z.strictObject({
  to: releaseSchema,
  from: described(
    'Without it: the older releases that most devices run, and newer ones from which a rollout leads back.',
    z.array(releaseSchema).min(1).max(MAX_DELTA_BASES).optional(),
  ),
});

export const deltaRemovalSchema = z.strictObject({
  to: releaseSchema,
  from: described(
    'Without it: all that lead to the release.',
    z.array(releaseSchema).min(1).max(MAX_DELTA_BASES).optional(),
  ),
});

import { z } from 'zod';
import { givenTagsSchema, idSchema, memberNameSchema, siteSchema } from '../fleet/fields.ts';
import { DEVICE_STATES } from '../fleet/report.ts';
import { nameSchema } from '../release/index.ts';
import {
  described,
  extending,
  memberKindSchema,
  named,
  namesSchema,
  openEnum,
  releaseNameSchema,
  unknownNamesSchema,
} from './schemas.ts';

// The bodies of /api/v1/devices, /api/v1/gateways, /api/v1/presence and /api/v1/join-tokens.

/** Whether a device or gateway is heard: `untold` where no gateway tells. */
export const PRESENCES = ['heard', 'silent', 'untold'] as const;
/** What can be odd about a device's chain of reports. */
export const ANOMALY_KINDS = ['gap', 'fork', 'epochChange', 'interleaved'] as const;
export const MAX_JOIN_TOKEN_USES = 1_000_000;

const presenceWord = openEnum(PRESENCES);

/** A device that may be down for an update: others of its product wait for it. */
export const turnSchema = named(
  'Turn',
  z.object({
    id: described('The device that may be down: others of its product wait.', z.string()),
    site: z.string(),
    gateway: z.string(),
    product: z.string(),
    rollout: z.string(),
    heldMs: described('For how long without a break.', z.number().optional()),
    leftMs: described('Until it ends, unless the device takes it anew.', z.number()),
    presence: presenceWord,
    lastHeardAt: z.string().optional(),
    name: described("The device's.", z.string().optional()),
  }),
);

const troubleSchema = z.object({ code: z.string(), detail: z.string() });

/** What a gateway says of itself. */
const conditionShape = {
  mirror: described(
    "Of a gateway: the timestamp that it serves, and by how many versions that is behind the origin's, and since when, where that lasts.",
    z.object({ timestampVersion: z.int(), behindBy: z.int(), behindSince: z.string().optional() }).optional(),
  ),
  troubles: described('Of a gateway: what is wrong there, as it says.', z.array(troubleSchema).optional()),
};

/** GET /api/v1/presence */
export const fleetPresenceSchema = z.object({
  gateways: z.object({ heard: z.int(), silent: z.int(), untold: z.int() }),
  silent: z.array(
    z.object({
      id: z.string(),
      name: z.string().optional(),
      site: z.string(),
      lastHeardAt: z.string().optional(),
    }),
  ),
  ailing: described(
    'Gateways that are heard, and are behind or say that something is wrong.',
    z
      .array(z.object({ id: z.string(), name: z.string().optional(), site: z.string(), ...conditionShape }))
      .optional(),
  ),
  turns: z.array(turnSchema),
});

const reasonSchema = z.object({ code: z.string(), message: z.string() });

const lastReportSchema = z.object({
  state: openEnum(DEVICE_STATES),
  epoch: z.string(),
  seq: z.int(),
  at: z.string(),
  receivedAt: z.string(),
  timestampVersion: z.int(),
  rollout: z.object({ id: z.string(), attempt: z.int() }).optional(),
  release: releaseNameSchema.optional(),
  booted: z
    .object({
      slot: openEnum(['A', 'B']),
      release: releaseNameSchema.optional(),
      /** False: it is on trial, or not known to be good. */
      isConfirmed: z.boolean().optional(),
    })
    .optional(),
  reason: reasonSchema.optional(),
  via: z.string().optional(),
});

export const memberSchema = named(
  'Member',
  z.object({
    id: z.string(),
    kind: memberKindSchema,
    name: z.string().optional(),
    product: z.string().optional(),
    hardware: z.string().optional(),
    site: z.string().optional(),
    tags: z.record(z.string(), z.string()),
    state: z.string(),
    serial: z.int().optional(),
    enrolledAt: z.string().optional(),
    revokedAt: z.string().optional(),
    quarantinedAt: z.string().optional(),
    odd: z.array(openEnum(ANOMALY_KINDS)),
    lastSeenAt: z.string().optional(),
    presence: presenceWord.optional(),
    ...conditionShape,
    last: lastReportSchema.optional(),
    via: z.string().optional(),
    sites: described(
      "Of one that waits and that several sites' gateways have shown: these sites, the first one first.",
      z.array(z.string()).optional(),
    ),
    wish: described(
      "Of one that waits: what it wants to be called. Its own word, or its token's.",
      z.string().optional(),
    ),
    wishBearer: described(
      'Who bears that name now.',
      z.object({ id: z.string(), kind: memberKindSchema, lastHeardAt: z.string() }).optional(),
    ),
  }),
);

export const memberDetailSchema = extending(
  { name: 'Member', schema: memberSchema },
  memberSchema.extend({
    chains: z.array(
      z.object({ epoch: z.string(), seq: z.int(), begunAt: z.string(), receivedAt: z.string() }),
    ),
    anomalies: z.array(
      z.object({ kind: openEnum(ANOMALY_KINDS), at: z.string(), epoch: z.string(), seq: z.int() }),
    ),
    heardBy: described('Gateways that hear this device now.', z.array(z.string()).optional()),
    hears: described(
      'What this gateway says: how many devices it hears, and who holds a turn.',
      z.object({ devices: z.int(), turns: z.array(turnSchema) }).optional(),
    ),
    inventory: z.record(z.string(), z.unknown()).optional(),
    /** Of its reports: how many are kept, in how many bytes, and how many older ones were dropped. */
    kept: z.object({ reports: z.int(), bytes: z.int(), dropped: z.int() }).optional(),
    names: namesSchema('Names of the gateways that reports came through, by id.'),
    reports: z.array(
      z.object({
        receivedAt: z.string(),
        via: z.string().optional(),
        report: z.record(z.string(), z.unknown()),
      }),
    ),
  }),
  'MemberDetail',
);

export const memberPageSchema = z.object({
  members: z.array(memberSchema),
  nextCursor: z.string().optional(),
  pending: z.int(),
  unknown: unknownNamesSchema,
});

export const changedMemberSchema = extending(
  { name: 'Member', schema: memberSchema },
  memberSchema.extend({ unknown: unknownNamesSchema }),
);

/** POST /api/v1/devices/ID/accept, and the same of gateways. */
export const acceptRequestSchema = named(
  'Accept',
  z
    .strictObject({
      site: siteSchema.optional(),
      name: described('Without it none, whatever is wished.', memberNameSchema.optional()),
      replace: described(
        'Who bears the name: it is revoked, and its site and tags go over with the name.',
        idSchema.optional(),
      ),
    })
    .refine(({ name, replace }) => replace === undefined || name !== undefined, 'replace needs the name'),
);

/** PATCH /api/v1/devices/ID, and the same of gateways. */
export const memberChangeSchema = named(
  'MemberChange',
  z.strictObject({
    tags: givenTagsSchema.optional(),
    site: siteSchema.optional(),
    name: memberNameSchema.nullable().optional(),
    quarantined: z.literal(false).optional(),
  }),
);

export const joinTokenSchema = named(
  'JoinToken',
  z.object({
    id: z.string(),
    kind: memberKindSchema,
    name: z.string().optional(),
    site: z.string().optional(),
    product: z.string().optional(),
    hardware: z.string().optional(),
    uses: z.int(),
    used: z.int(),
    createdAt: z.string(),
    createdBy: z.string(),
    expiresAt: z.string(),
  }),
);
export const joinTokenListSchema = z.object({ joinTokens: z.array(joinTokenSchema) });
/** The token's text is answered this once. */
export const createdJoinTokenSchema = extending(
  { name: 'JoinToken', schema: joinTokenSchema },
  joinTokenSchema.extend({ token: z.string(), unknown: unknownNamesSchema }),
);

export const newJoinTokenSchema = named(
  'NewJoinToken',
  z
    .strictObject({
      kind: memberKindSchema,
      name: described('Of the one that it lets in.', memberNameSchema.optional()),
      site: siteSchema.optional(),
      product: nameSchema.optional(),
      hardware: nameSchema.optional(),
      uses: z.int().min(1).max(MAX_JOIN_TOKEN_USES).default(1),
      expiresAt: z.iso.datetime(),
      /** The origin's address, as newcomers reach it. */
      origin: z.url({ protocol: /^https?$/ }).max(512),
    })
    .refine(({ name, uses }) => name === undefined || uses === 1, 'a name is for one use'),
);

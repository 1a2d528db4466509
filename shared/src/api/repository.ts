import { z } from 'zod';
import { counterSchema, nameSchema } from '../release/index.ts';
import { ONLINE_ROLES } from '../signing/index.ts';
import { described, extending, named, namesSchema, openEnum } from './schemas.ts';

// The bodies of /api/v1/repository, /changes, /releases, /repairs, /keys, /chunks, /tokens and /audit.

/** Roles whose metadata the origin publishes. */
export const REPOSITORY_ROLES = ['root', 'targets', ...ONLINE_ROLES] as const;
export const TOKEN_ROLES = ['viewer', 'operator', 'admin'] as const;
export const MAX_TOKEN_NAME_CHARS = 100;

const onlineRoleSchema = z.enum(ONLINE_ROLES);
const roleSchema = z.enum(REPOSITORY_ROLES);

export const tufKeySchema = named(
  'TufKey',
  z.object({
    keytype: z.string(),
    scheme: z.string(),
    keyval: z.object({ public: z.string().optional() }),
  }),
);

/** By the counters of its releases. */
const deltaNameSchema = z.object({ product: nameSchema, from: counterSchema, to: counterSchema });

const keysSchema = z.partialRecord(onlineRoleSchema, tufKeySchema);

export const repositorySchema = named(
  'Repository',
  z.object({
    initialised: z.boolean(),
    /** A key that the origin has lost isn't among them. */
    onlineKeys: keysSchema,
    pendingKeys: keysSchema,
    versions: z.partialRecord(roleSchema, z.int()),
    expires: z.partialRecord(roleSchema, z.string()),
    warnings: z.array(
      z.object({ role: openEnum([...REPOSITORY_ROLES, 'tls']), code: z.string(), message: z.string() }),
    ),
    damage: z.object({
      releases: z.array(
        z.object({
          product: z.string(),
          counter: z.int(),
          version: z.string().optional(),
          chunks: z.int(),
        }),
      ),
      deltas: described(
        'Deltas that operators have signed, and that lack chunks of their patches.',
        z.array(deltaNameSchema.extend({ chunks: z.int() })).optional(),
      ),
      files: z.array(z.string()),
    }),
    /** Of all devices: what is kept, how much may be kept, and how many older reports were dropped. */
    reports: z.object({ keptBytes: z.int(), maxKeptBytes: z.int(), dropped: z.int() }),
  }),
);

/** POST /api/v1/changes */
export const changeSchema = named(
  'Change',
  z.strictObject({
    root: z.string().optional(),
    targets: z.string().optional(),
    dryRun: z.boolean().optional(),
  }),
);

export const changeResultSchema = named(
  'ChangeResult',
  z.object({
    versions: z.record(roleSchema, z.int()),
    added: z.array(z.object({ product: z.string(), counter: z.int(), version: z.string() })),
    removed: z.array(z.object({ product: z.string(), counter: z.int() })),
    products: z.array(z.string()),
    deltas: described(
      'What changes of the deltas that operators have signed.',
      z.object({ added: z.array(deltaNameSchema), removed: z.array(deltaNameSchema) }).optional(),
    ),
    /** These very bytes were published before: the answer got lost. */
    alreadyDone: z.boolean(),
  }),
);

/** POST /api/v1/releases/PRODUCT/COUNTER/check: what the release lacks. */
export const releaseDamageSchema = z.object({ chunks: z.int(), files: z.array(z.string()) });
/** POST /api/v1/repairs: what was put back. */
export const repairedSchema = z.object({ chunks: z.int(), files: z.array(z.string()) });
/** POST /api/v1/keys/ROLE/rotate */
export const pendingKeySchema = z.object({ role: onlineRoleSchema, key: tufKeySchema });
/** POST /api/v1/chunks */
export const stagedChunksSchema = z.object({ stored: z.int(), known: z.int() });

export const tokenSchema = named(
  'Token',
  z.object({
    id: z.string(),
    name: z.string(),
    role: z.enum(TOKEN_ROLES),
    createdAt: z.string(),
    expiresAt: z.string().optional(),
  }),
);
export const tokenListSchema = z.object({ tokens: z.array(tokenSchema) });
/** The token's text is answered this once. */
export const createdTokenSchema = extending(
  { name: 'Token', schema: tokenSchema },
  tokenSchema.extend({ token: z.string() }),
);

export const newTokenSchema = named(
  'NewToken',
  z.strictObject({
    name: z
      .string()
      .min(1)
      .max(MAX_TOKEN_NAME_CHARS)
      .regex(/^[^\p{Cc}\p{Cs}]*$/u, 'no control characters'),
    role: z.enum(TOKEN_ROLES),
    expiresAt: z.iso.datetime().optional(),
  }),
);

const auditEntrySchema = named(
  'AuditEntry',
  z.object({
    seq: z.int(),
    at: z.string(),
    by: z.string(),
    action: z.string(),
    subject: z.string(),
    details: z.record(z.string(), z.unknown()).optional(),
    previous: z.string().nullable(),
    hash: z.string(),
  }),
);

/** GET /api/v1/audit. `after` is the last entry that was looked at, `head` the last that there is. */
export const auditPageSchema = z.object({
  entries: z.array(auditEntrySchema),
  after: z.int(),
  names: namesSchema('What devices and gateways that these entries are of are called now, by id.'),
  head: z.object({ seq: z.int(), hash: z.string().nullable() }),
});

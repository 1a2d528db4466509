import { SitecastError } from '@sitecast/shared/errors';
import { ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import { z } from 'zod';
import { type Draft, textOf } from './draft.ts';
import type { OriginClient } from './origin-client.ts';

const keySchema = z.looseObject({
  keytype: z.string(),
  scheme: z.string(),
  keyval: z.looseObject({ public: z.string() }),
});

const statusSchema = z.object({
  initialised: z.boolean(),
  /** One that the origin has lost isn't among them. */
  onlineKeys: z.partialRecord(z.enum(ONLINE_ROLES), keySchema),
  pendingKeys: z.partialRecord(z.enum(ONLINE_ROLES), keySchema),
  versions: z.record(z.string(), z.number()),
  expires: z.record(z.string(), z.string()),
  warnings: z.array(z.object({ role: z.string(), code: z.string(), message: z.string() })),
  /** An origin of an earlier version doesn't look for damage. */
  damage: z
    .object({
      releases: z.array(
        z.object({
          product: z.string(),
          counter: z.number(),
          version: z.string().optional(),
          chunks: z.number(),
        }),
      ),
      files: z.array(z.string()),
    })
    .optional(),
  /** What is kept of devices' reports; an origin of an earlier version doesn't say. */
  reports: z.object({ keptBytes: z.number(), maxKeptBytes: z.number(), dropped: z.number() }).optional(),
});
export type RepositoryStatus = z.infer<typeof statusSchema>;

const releaseNameSchema = z.looseObject({ product: z.string(), counter: z.number() });
const addedSchema = releaseNameSchema.extend({ version: z.string() });
const changeSchema = z.object({
  versions: z.record(z.string(), z.number()),
  added: z.array(addedSchema),
  removed: z.array(releaseNameSchema),
  products: z.array(z.string()),
  /** These very bytes were published before: an answer that got lost. */
  alreadyDone: z.boolean(),
});
export type ChangeResult = z.infer<typeof changeSchema>;

export function repositoryStatus(origin: OriginClient): Promise<RepositoryStatus> {
  return origin.json('/api/v1/repository', statusSchema);
}

/** Stages the draft's files, then asks the origin to check and publish it all at once. */
export async function submitDraft(origin: OriginClient, draft: Draft): Promise<ChangeResult> {
  for (const [target, bytes] of draft.files) {
    const sha256 = draft.targets?.signed.targets[target]?.hashes.sha256;
    if (sha256 !== undefined) await origin.bytes(`/api/v1/files/${sha256}`, { method: 'PUT', bytes });
  }
  return origin.json('/api/v1/changes', changeSchema, {
    method: 'POST',
    json: {
      ...(draft.root && { root: textOf(draft.root) }),
      ...(draft.targets && { targets: textOf(draft.targets) }),
    },
  });
}

const damageSchema = z.object({ chunks: z.number(), files: z.array(z.string()) });

/**
 * Has the origin read back all that is published of a release.
 * @returns what it lacks; undefined where the origin is of a version that can't tell
 */
export async function checkRelease(
  origin: OriginClient,
  product: string,
  counter: number,
): Promise<z.infer<typeof damageSchema> | undefined> {
  try {
    return await origin.json(`/api/v1/releases/${product}/${counter}/check`, damageSchema, {
      method: 'POST',
    });
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_NOT_FOUND') return undefined;
    throw error;
  }
}

/** Has the origin put what was uploaded in the place of what it has lost. */
export function repair(origin: OriginClient): Promise<{ chunks: number; files: string[] }> {
  const schema = z.object({ chunks: z.number(), files: z.array(z.string()).default([]) });
  return origin.json('/api/v1/repairs', schema, { method: 'POST' });
}

/** Has the origin make a new key for one of its roles; it's used once signed metadata names it. */
export async function pendingOnlineKey(
  origin: OriginClient,
  role: OnlineRole,
): Promise<z.infer<typeof keySchema>> {
  const { key } = await origin.json(`/api/v1/keys/${role}/rotate`, z.object({ key: keySchema }), {
    method: 'POST',
  });
  return key;
}

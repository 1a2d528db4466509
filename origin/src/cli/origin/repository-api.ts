import * as wire from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import { z } from 'zod';
import { type Draft, textOf } from '../draft/draft.ts';
import type { OriginClient } from './client.ts';

const keySchema = z.looseObject({
  keytype: z.string(),
  scheme: z.string(),
  keyval: z.looseObject({ public: z.string() }),
});

// As in fleet-api.ts: an earlier origin doesn't send some fields, and a later one may add roles.

const versions = z.record(z.string(), z.number());
const keysSchema = z.partialRecord(z.enum(ONLINE_ROLES), keySchema);

const statusSchema = wire.repositorySchema.extend({
  onlineKeys: keysSchema,
  pendingKeys: keysSchema,
  versions,
  expires: z.record(z.string(), z.string()),
  damage: wire.repositorySchema.shape.damage.optional(),
  reports: wire.repositorySchema.shape.reports.optional(),
});
export type RepositoryStatus = z.infer<typeof statusSchema>;

const changeResultSchema = wire.changeResultSchema.extend({ versions });
export type ChangeResult = z.infer<typeof changeResultSchema>;

export function repositoryStatus(origin: OriginClient): Promise<RepositoryStatus> {
  return origin.json('/api/v1/repository', statusSchema);
}

/** Stages the draft's files, then asks the origin to check and publish it all at once. */
export async function submitDraft(origin: OriginClient, draft: Draft): Promise<ChangeResult> {
  for (const [target, bytes] of draft.files) {
    const sha256 = draft.targets?.signed.targets[target]?.hashes.sha256;
    if (sha256 !== undefined) await origin.bytes(`/api/v1/files/${sha256}`, { method: 'PUT', bytes });
  }
  return origin.json('/api/v1/changes', changeResultSchema, {
    method: 'POST',
    json: {
      ...(draft.root && { root: textOf(draft.root) }),
      ...(draft.targets && { targets: textOf(draft.targets) }),
    },
  });
}

/**
 * Asks the origin to read back all published data of a release.
 * @returns what the release lacks; undefined from an origin of an earlier version
 */
export async function checkRelease(
  origin: OriginClient,
  product: string,
  counter: number,
): Promise<z.infer<typeof wire.releaseDamageSchema> | undefined> {
  try {
    return await origin.json(`/api/v1/releases/${product}/${counter}/check`, wire.releaseDamageSchema, {
      method: 'POST',
    });
  } catch (error) {
    if (error instanceof SitecastError && error.code === 'SITECAST_NOT_FOUND') return undefined;
    throw error;
  }
}

/** Asks the origin to put uploaded chunks and files in place of the lost ones. */
export function repair(origin: OriginClient): Promise<{ chunks: number; files: string[] }> {
  const schema = wire.repairedSchema.extend({ files: z.array(z.string()).default([]) });
  return origin.json('/api/v1/repairs', schema, { method: 'POST' });
}

/** Asks the origin to make a new key for one of its roles. The key is used once signed metadata name it. */
export async function pendingOnlineKey(
  origin: OriginClient,
  role: OnlineRole,
): Promise<z.infer<typeof keySchema>> {
  const { key } = await origin.json(
    `/api/v1/keys/${role}/rotate`,
    wire.pendingKeySchema.extend({ key: keySchema }),
    {
      method: 'POST',
    },
  );
  return key;
}

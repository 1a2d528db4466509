import { createHash } from 'node:crypto';
import type { SignedTargets } from '@sitecast/shared/trust';
import type { Draft } from './draft.ts';
import type { OriginClient } from './origin-client.ts';
import { repair, repositoryStatus } from './repository-api.ts';

/**
 * Gives the origin those files of a draft back that it lists and has lost, however long ago the draft was published.
 * @returns their names
 */
export async function bringBack(
  origin: OriginClient,
  { files }: Draft,
  { targets }: SignedTargets,
): Promise<string[]> {
  const { damage } = await repositoryStatus(origin);
  const lost = (damage?.files ?? []).filter(name => {
    const bytes = files.get(name);
    return (
      bytes !== undefined && Object.hasOwn(targets, name) && targets[name]?.hashes.sha256 === hashOf(bytes)
    );
  });
  for (const name of lost) {
    const bytes = files.get(name);
    if (bytes) await origin.bytes(`/api/v1/files/${hashOf(bytes)}`, { method: 'PUT', bytes });
  }
  return lost.length > 0 ? (await repair(origin)).files : [];
}

function hashOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

import { readFileBounded } from '@sitecast/shared/durable';
import type { JoinToken } from '@sitecast/shared/fleet';
import { DEFAULT_TRUST_LIMITS } from '@sitecast/shared/trust';
import type { RunSettings } from '../settings.ts';
import type { TrustStart } from './trust.ts';

/** What a new device trusts first: the operator's root metadata, or a join token's hash of it. */
export async function trustStart(
  { rootFile }: RunSettings,
  token: JoinToken | undefined,
): Promise<TrustStart | undefined> {
  if (rootFile !== undefined) {
    const bytes = await readFileBounded(rootFile, DEFAULT_TRUST_LIMITS.maxRootBytes);
    return { kind: 'root', bytes };
  }
  return token && { kind: 'hash', rootSha256: token.rootSha256 };
}

import { REPOSITORY_ROLES } from '@sitecast/shared/api';
import { DEFAULT_TRUST_LIMITS } from '@sitecast/shared/trust';

/** All roles of the repository's metadata. */
export const ROLES = REPOSITORY_ROLES;
export type Role = (typeof ROLES)[number];

/** How many bytes a client accepts for a role. A longer file must not be published. */
export function maxBytesOf(role: Role): number {
  switch (role) {
    case 'root':
      return DEFAULT_TRUST_LIMITS.maxRootBytes;
    case 'timestamp':
      return DEFAULT_TRUST_LIMITS.maxTimestampBytes;
    case 'snapshot':
      return DEFAULT_TRUST_LIMITS.maxSnapshotBytes;
    default:
      return DEFAULT_TRUST_LIMITS.maxTargetsBytes;
  }
}

/** The most that a client accepts from a repository that isn't verified yet. */
export interface TrustLimits {
  maxRootBytes: number;
  maxTimestampBytes: number;
  maxSnapshotBytes: number;
  /** The bound of the top-level targets and of each delegated role. */
  maxTargetsBytes: number;
  /** New root files that are followed in one refresh (Y in section 5.3.3). The next refresh continues from there. */
  maxRootRotations: number;
  /** Roles that are searched for one target. */
  maxDelegatedRoles: number;
  /** The depth of delegations that are followed for one target. */
  maxDelegationDepth: number;
  /** The bound of a target file that is fetched into memory. */
  maxTargetFileBytes: number;
}

export const DEFAULT_TRUST_LIMITS: TrustLimits = {
  maxRootBytes: 512 * 1024,
  maxTimestampBytes: 16 * 1024,
  maxSnapshotBytes: 2 * 1024 * 1024,
  maxTargetsBytes: 8 * 1024 * 1024,
  maxRootRotations: 256,
  maxDelegatedRoles: 32,
  maxDelegationDepth: 8,
  maxTargetFileBytes: 64 * 1024 * 1024,
};

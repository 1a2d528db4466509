/** What a client accepts at most from a repository nobody has vouched for yet. */
export interface TrustLimits {
  maxRootBytes: number;
  maxTimestampBytes: number;
  maxSnapshotBytes: number;
  /** For the top-level targets and for each delegated role. */
  maxTargetsBytes: number;
  /** New root files followed in one refresh (Y in section 5.3.3); the next refresh goes on from there. */
  maxRootRotations: number;
  /** Roles looked into for one target. */
  maxDelegatedRoles: number;
  /** Delegations followed one below the other for one target. */
  maxDelegationDepth: number;
  /** A target file that is fetched into memory. */
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

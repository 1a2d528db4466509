export { checkTarget, type FoundTarget, TufClient, type TufClientOptions } from './client.ts';
export { type Clock, issuedMsOf } from './clock.ts';
export { matchesPathPattern } from './delegation.ts';
export { readEd25519Key, verifyEd25519 } from './ed25519.ts';
export { findMismatch } from './file-check.ts';
export { HttpFetcher, type HttpFetcherOptions } from './http-fetcher.ts';
export { ed25519Key, keyIdentityOf, keyIdOf, type TufKey, verifySignature } from './keys.ts';
export { DEFAULT_TRUST_LIMITS, type TrustLimits } from './limits.ts';
export {
  type DelegatedRole,
  type Delegations,
  type FileHashes,
  isTopLevelRole,
  type Metadata,
  type MetadataType,
  type MetaFile,
  parseMetadata,
  type RoleKeys,
  type Signature,
  type SignedByType,
  type SignedRoot,
  type SignedSnapshot,
  type SignedTargets,
  type SignedTimestamp,
  type SuccinctRoles,
  type TargetFile,
  TOP_LEVEL_ROLES,
  type TopLevelRole,
  toDateTime,
} from './metadata.ts';
export { fileNameFor, metadataPath, targetPath } from './names.ts';
export type { MetadataFetcher, MetadataStore } from './ports.ts';
export { MAX_DELEGATED_TARGETS, type Omitted, type RoleTarget, roleTargets } from './role-targets.ts';
export { rememberingVerifier, type VerifySignature } from './signature-memory.ts';
export {
  canonicalBytes,
  countSigners,
  delegatedSigners,
  type RoleSigners,
  serializeMetadata,
  type Signer,
  signMetadata,
  signOne,
  topLevelSigners,
  verifyThreshold,
} from './signing.ts';
export { DirectoryMetadataStore, MemoryMetadataStore } from './stores.ts';
export { type JsonValue, parseStrictJson } from './strict-json.ts';
export { TrustedSet } from './trusted-set.ts';

import { SitecastError } from '@sitecast/shared/errors';
import type { RolloutsFile } from '@sitecast/shared/fleet';
import {
  delegatedSigners,
  type FoundTarget,
  type Metadata,
  metadataPath,
  type RoleSigners,
  targetPath,
  TrustedSet,
  type VerifySignature,
} from '@sitecast/shared/trust';

/** Bound of the delegated roles that are mirrored; Sitecast has two. */
const MAX_DELEGATED_ROLES = 8;
/** Bound of the targets of all roles together. */
const MAX_LISTED_TARGETS = 100_000;
const ROLE_NAME = /^[a-z][a-z0-9-]{0,31}$/;
const SHA256 = /^[0-9a-f]{64}$/;

/** Metadata that belongs together, as it came, by role: timestamp, snapshot, targets, and the delegated ones. */
export type SetFiles = ReadonlyMap<string, Uint8Array>;

/** One state of the repository, verified as a whole; it never changes. */
export interface MirrorSet {
  /** As saved. */
  readonly files: SetFiles;
  /** By name below /metadata/; without roots. */
  readonly served: ReadonlyMap<string, Uint8Array>;
  /** By path below /targets/. */
  readonly targets: ReadonlyMap<string, FoundTarget>;
  readonly roles: readonly { role: string; version: number; expires: string }[];
  /** The signers of assignments, acknowledgements and rollouts. */
  readonly rolloutsSigners: RoleSigners | undefined;
  /** By product, as read from the target files. */
  readonly rollouts: ReadonlyMap<string, RolloutsFile>;
}

/** The delegated roles that a gateway mirrors: those that the snapshot lists. */
export function mirroredRoles({
  targets,
  snapshot,
}: {
  targets: Metadata<'targets'> | undefined;
  snapshot: Metadata<'snapshot'> | undefined;
}): string[] {
  const listed = snapshot?.signed.meta ?? {};
  return (targets?.signed.delegations?.roles ?? [])
    .map(({ name }) => name)
    .filter(name => ROLE_NAME.test(name) && Object.hasOwn(listed, `${name}.json`))
    .slice(0, MAX_DELEGATED_ROLES);
}

/**
 * Verifies by a trusted root that files are signed, whole, and belong together. It does not ask whether they have expired since the
 * timestamp was issued: a site that is cut off goes on being served, and each device judges for itself.
 * @param verify checks one signature
 * @throws the codes of docs/ERRORS.md under "Trust"; SITECAST_MIRROR_UNUSABLE (untrusted)
 */
export function verifySet(
  root: Uint8Array,
  files: SetFiles,
  verify?: VerifySignature,
): Omit<MirrorSet, 'rollouts'> {
  // At time 0 only the timestamp's `issued` counts.
  const set = new TrustedSet(root, 0, verify);
  if (set.root.signed.consistent_snapshot !== true)
    throw unusable('the repository has no consistent snapshots');
  set.restoreTimestamp(fileOf(files, 'timestamp'));
  set.restoreSnapshot(fileOf(files, 'snapshot'));
  set.restoreTargets(fileOf(files, 'targets'));
  if (!set.isTargetsCurrent) throw unusable('its files do not belong together');

  const served = new Map<string, Uint8Array>([['timestamp.json', fileOf(files, 'timestamp')]]);
  const roles: { role: string; version: number; expires: string }[] = [];
  const targets = new Map<string, FoundTarget>();
  const add = (role: string, metadata: Metadata | undefined): void => {
    if (!metadata) return;
    const { version, expires } = metadata.signed;
    roles.push({ role, version, expires });
    if (role !== 'timestamp' && role !== 'root') served.set(metadataPath(role, version), metadata.bytes);
  };
  add('root', set.root);
  add('timestamp', set.timestamp);
  add('snapshot', set.snapshot);
  add('targets', set.targets);
  const delegations = set.targets?.signed.delegations;
  // The top-level targets go before what a delegated role lists under the same name.
  const delegated = mirroredRoles(set).map(role => {
    const signers = delegatedSigners(delegations, role);
    if (!signers) throw unusable(`nobody signs for ${role}`);
    const metadata = set.verifyDelegated(fileOf(files, role), role, signers);
    add(role, metadata);
    return { role, metadata };
  });
  for (const { role, metadata } of [{ role: 'targets', metadata: set.targets }, ...delegated])
    addTargets(targets, role, metadata);
  return { files, served, targets, roles, rolloutsSigners: delegatedSigners(delegations, 'rollouts') };
}

function addTargets(
  targets: Map<string, FoundTarget>,
  role: string,
  metadata: Metadata<'targets'> | undefined,
): void {
  for (const [name, file] of Object.entries(metadata?.signed.targets ?? {})) {
    const { sha256 } = file.hashes;
    // A role may list targets of its own folder only.
    if (role !== 'targets' && !name.startsWith(`${role}/`)) continue;
    if (sha256 === undefined || !SHA256.test(sha256) || name.includes('..')) continue;
    const path = targetPath(name, sha256);
    if (!targets.has(path)) targets.set(path, { name, role, file });
    if (targets.size > MAX_LISTED_TARGETS) throw unusable(`it lists more than ${MAX_LISTED_TARGETS} targets`);
  }
}

function fileOf(files: SetFiles, role: string): Uint8Array {
  const bytes = files.get(role);
  if (bytes) return bytes;
  throw unusable(`its ${role} metadata is missing`);
}

function unusable(why: string): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_MIRROR_UNUSABLE', `this is no set to serve: ${why}`);
}

import { SitecastError } from '@sitecast/shared/errors';
import { MAX_ROLLOUTS_BYTES, parseRollouts, type Rollout, type RolloutsFile } from '@sitecast/shared/fleet';
import { indexTarget, manifestTarget, MAX_PRODUCT_BYTES, parseTargetName } from '@sitecast/shared/release';
import {
  delegatedSigners,
  type FoundTarget,
  issuedMsOf,
  type Metadata,
  metadataPath,
  type Omitted,
  type RoleSigners,
  roleTargets,
  targetPath,
  TrustedSet,
  type VerifySignature,
} from '@sitecast/shared/trust';

/** Bound of the indexes, in total, that are fetched before a device asks for them. */
const MAX_EAGER_INDEX_BYTES = 256 * 1024 * 1024;
/** Bound of the recipes and patch indexes, in total, that are kept on the disk for rollouts under way. */
const MAX_KEPT_DELTA_BYTES = 64 * 1024 * 1024;

const ROLLOUTS_TARGET = /^rollouts\/(.{1,64})\.json$/;

type Targets = ReadonlyMap<string, FoundTarget>;

/** The files that a device reads first, of every product: product file and rollouts. */
export function firstNeeds(targets: Targets): FoundTarget[] {
  return [...targets.values()].filter(({ name, file }) => {
    if (parseTargetName(name)?.kind === 'product') return file.length <= MAX_PRODUCT_BYTES;
    return ROLLOUTS_TARGET.test(name) && file.length <= MAX_ROLLOUTS_BYTES;
  });
}

/** The rollouts of each product; `read` gives a file's bytes, or undefined. */
export async function readRollouts(
  targets: Targets,
  read: (target: FoundTarget) => Promise<Uint8Array | undefined>,
): Promise<Map<string, RolloutsFile>> {
  const rollouts = new Map<string, RolloutsFile>();
  for (const target of targets.values()) {
    const product = ROLLOUTS_TARGET.exec(target.name)?.[1];
    const bytes = product === undefined ? undefined : await read(target);
    const file = bytes && parseOrUndefined(bytes);
    if (product !== undefined && file?.product === product) rollouts.set(product, file);
  }
  return rollouts;
}

function parseOrUndefined(bytes: Uint8Array): RolloutsFile | undefined {
  try {
    return parseRollouts(bytes);
  } catch (error) {
    // A later format: it is served unchanged, and the files that it names are fetched when a device asks.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

/** Manifests and indexes of the releases that rollouts name. */
export function rolloutNeeds(targets: Targets, rollouts: ReadonlyMap<string, RolloutsFile>): FoundTarget[] {
  const byName = inForce(targets);
  const needs = new Map<string, FoundTarget>();
  let indexBytes = 0;
  for (const file of rollouts.values()) {
    // The newest come first. Where there are too many, the oldest wait until a device asks.
    for (const { counter } of [...file.rollouts].reverse().flatMap(releasesOf)) {
      const manifest = byName.get(manifestTarget(file.product, counter));
      if (manifest) needs.set(manifest.name, manifest);
      const index = byName.get(indexTarget(file.product, counter));
      if (!index || needs.has(index.name) || indexBytes + index.file.length > MAX_EAGER_INDEX_BYTES) continue;
      indexBytes += index.file.length;
      needs.set(index.name, index);
    }
  }
  return [...needs.values()];
}

/** Recipes and patch indexes of deltas to the releases of rollouts under way. They are kept when they have been fetched. */
export function deltaFiles(targets: Targets, rollouts: ReadonlyMap<string, RolloutsFile>): FoundTarget[] {
  const wanted = releasesUnderWay(rollouts);
  let leftBytes = MAX_KEPT_DELTA_BYTES;
  return [...inForce(targets).values()].filter(({ name, file }) => {
    const parsed = parseTargetName(name);
    if (parsed?.kind !== 'recipe' && parsed?.kind !== 'patchIndex') return false;
    if (!wanted.get(parsed.product)?.has(parsed.to) || file.length > leftBytes) return false;
    leftBytes -= file.length;
    return true;
  });
}

/**
 * The indexes of the releases that devices are being updated to, and those of the patches that lead there: their chunks must stay in
 * the cache.
 */
export function pinnedIndexes(targets: Targets, rollouts: ReadonlyMap<string, RolloutsFile>): FoundTarget[] {
  return indexesOf(targets, releasesUnderWay(rollouts));
}

/**
 * The indexes of all releases that listed rollouts order, with those of patches to them. This includes completed rollouts, which latecomers
 * follow, and which may offer the stepping stone to a newer release.
 */
export function orderedIndexes(targets: Targets, rollouts: ReadonlyMap<string, RolloutsFile>): FoundTarget[] {
  return indexesOf(targets, releasesOrdered(rollouts));
}

function indexesOf(targets: Targets, wanted: ReadonlyMap<string, ReadonlySet<number>>): FoundTarget[] {
  return [...inForce(targets).values()].filter(({ name }) => {
    const parsed = parseTargetName(name);
    if (parsed?.kind === 'index') return wanted.get(parsed.product)?.has(parsed.counter) === true;
    return parsed?.kind === 'patchIndex' && wanted.get(parsed.product)?.has(parsed.to) === true;
  });
}

/** Whether a target is of a release that a listed rollout orders, or of a delta that leads there. */
export function isOrdered({ name }: FoundTarget, rollouts: ReadonlyMap<string, RolloutsFile>): boolean {
  const parsed = parseTargetName(name);
  if (parsed === undefined || !('product' in parsed)) return false;
  const counters = releasesOrdered(rollouts).get(parsed.product);
  if ('to' in parsed) return counters?.has(parsed.to) === true;
  return 'counter' in parsed && counters?.has(parsed.counter) === true;
}

/** By name, the target that counts: the top-level targets override a delegated role's target of the same name. */
export function inForce(targets: Targets): Map<string, FoundTarget> {
  const byName = new Map<string, FoundTarget>();
  for (const target of targets.values()) if (!byName.has(target.name)) byName.set(target.name, target);
  return byName;
}

/** By product, the counters of the releases that devices are being updated to. */
const releasesUnderWay = (rollouts: ReadonlyMap<string, RolloutsFile>) =>
  releasesIn(rollouts, ({ state }) => state !== 'completed');

/** By product, the counters of the releases that a device may be ordered to install. */
const releasesOrdered = (rollouts: ReadonlyMap<string, RolloutsFile>) => releasesIn(rollouts, () => true);

function releasesIn(
  rollouts: ReadonlyMap<string, RolloutsFile>,
  counts: (rollout: Rollout) => boolean,
): Map<string, Set<number>> {
  const counters = [...rollouts.values()].map(({ product, rollouts: list }) => {
    const releases = list.filter(counts).flatMap(releasesOf);
    return [product, new Set(releases.map(({ counter }) => counter))] as const;
  });
  return new Map(counters);
}

function releasesOf({ state, release, rollbackTo }: Rollout): { counter: number }[] {
  if (state === 'aborted') return [];
  return rollbackTo ? [release, rollbackTo] : [release];
}

/** Bound of the delegated roles that are mirrored; Sitecast has two. */
const MAX_DELEGATED_ROLES = 8;
const ROLE_NAME = /^[a-z][a-z0-9-]{0,31}$/;

/** Metadata files of one state, as received, by role: timestamp, snapshot, targets, and the delegated roles. */
export type SetFiles = ReadonlyMap<string, Uint8Array>;

/** One state of the repository, verified as a whole; it never changes. */
export interface MirrorSet {
  /** As saved. */
  readonly files: SetFiles;
  /** By name below /metadata/; without roots. */
  readonly served: ReadonlyMap<string, Uint8Array>;
  /** By path below /targets/. */
  readonly targets: ReadonlyMap<string, FoundTarget>;
  readonly omitted: readonly Omitted[];
  readonly roles: readonly { role: string; version: number; expires: string }[];
  /** The signers of assignments, acknowledgements and rollouts. */
  readonly rolloutsSigners: RoleSigners | undefined;
  /** When the timestamp was signed, milliseconds since 1970. */
  readonly issuedMs: number | undefined;
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
 * Verifies with a trusted root that files are signed, complete, and belong together. Expiry since the timestamp was issued isn't checked: a
 * site that is cut off is still served, and each device judges for itself.
 * @param verify checks one signature
 * @throws the codes of docs/ERRORS.md under "Trust"; SITECAST_MIRROR_UNUSABLE (untrusted)
 */
export function verifySet(
  root: Uint8Array,
  files: SetFiles,
  verify?: VerifySignature,
): Omit<MirrorSet, 'rollouts'> {
  // With time 0, only the timestamp's `issued` counts.
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
  // The top-level targets override a delegated role's target of the same name.
  const delegated = mirroredRoles(set).map(role => {
    const signers = delegatedSigners(delegations, role);
    if (!signers) throw unusable(`nobody signs for ${role}`);
    const metadata = set.verifyDelegated(fileOf(files, role), role, signers);
    add(role, metadata);
    return { role, metadata };
  });
  const omitted: Omitted[] = [];
  for (const { role, metadata } of [{ role: 'targets', metadata: set.targets }, ...delegated]) {
    const found = roleTargets(role, metadata?.signed.targets ?? {});
    if (found.omitted) omitted.push(found.omitted);
    for (const { name, sha256, file } of found.listed) {
      const path = targetPath(name, sha256);
      if (!targets.has(path)) targets.set(path, { name, role, file });
    }
  }
  return {
    files,
    served,
    targets,
    omitted,
    roles,
    rolloutsSigners: delegatedSigners(delegations, 'rollouts'),
    issuedMs: issuedMsOf(set.timestamp?.signed),
  };
}

function fileOf(files: SetFiles, role: string): Uint8Array {
  const bytes = files.get(role);
  if (bytes) return bytes;
  throw unusable(`its ${role} metadata is missing`);
}

function unusable(why: string): SitecastError {
  return new SitecastError('untrusted', 'SITECAST_MIRROR_UNUSABLE', `this is no set to serve: ${why}`);
}

import { isDeepStrictEqual } from 'node:util';
import { SitecastError } from '@sitecast/shared/errors';
import { ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import {
  countSigners,
  type Metadata,
  type MetadataType,
  parseMetadata,
  type SignedByType,
  type Signer,
  signMetadata,
  type TargetFile,
  toDateTime,
} from '@sitecast/shared/trust';
import { issuedMsOf } from './clock.ts';
import { type Committed, metaFileOf, signersOf } from './committed.ts';
import type { VersionFloor } from './repository-store.ts';
import { maxBytesOf, type Role } from './roles.ts';

const SPEC_VERSION = '1.0.31';
const DAY_MS = 86_400_000;
/** How long the origin's own signatures are valid. */
export const ONLINE_LIFETIME_MS = 14 * DAY_MS;
/** How often the timestamp is signed anew, so that clients see that the origin lives. */
const TIMESTAMP_INTERVAL_MS = 3_600_000;

export function higherOf(one: VersionFloor, other: VersionFloor): VersionFloor {
  return {
    timestamp: Math.max(one.timestamp, other.timestamp),
    snapshot: Math.max(one.snapshot, other.snapshot),
    rollouts: Math.max(one.rollouts, other.rollouts),
    deltas: Math.max(one.deltas, other.deltas),
  };
}

export function onlineVersions({ timestamp, snapshot, rollouts, deltas }: Committed): VersionFloor {
  return {
    timestamp: timestamp.signed.version,
    snapshot: snapshot.signed.version,
    rollouts: rollouts.signed.version,
    deltas: deltas.signed.version,
  };
}

/** By how much versions are increased if it isn't known which ones are used up. */
const LOST_VERSIONS = 1_000_000;

/** Higher than all versions that forgotten attempts may have used up. */
export function floorBeyond(found: Partial<Committed> | undefined): VersionFloor {
  const beyond = (role: OnlineRole) => (found?.[role]?.signed.version ?? -LOST_VERSIONS) + LOST_VERSIONS;
  return {
    timestamp: beyond('timestamp'),
    snapshot: beyond('snapshot'),
    rollouts: beyond('rollouts'),
    deltas: beyond('deltas'),
  };
}

interface SigningInput {
  root: Metadata<'root'>;
  targets: Metadata<'targets'>;
  /** Undefined at the very first commit. */
  previous: Committed | undefined;
  /** What the rollouts role is to list. Without it, the role lists what it listed before. */
  rolloutsTargets?: Record<string, TargetFile> | undefined;
  /** The same for the deltas role. */
  deltasTargets?: Record<string, TargetFile> | undefined;
  /** The key that signs for the role: the one that root or targets name; undefined if the origin doesn't have it. */
  signerOf: (role: OnlineRole) => Signer | undefined;
  /** What to throw then. */
  keyMissing: (role: OnlineRole) => SitecastError;
  floor: VersionFloor;
  nowMs: number;
}

/**
 * Makes the next whole state: root and targets as given, and the origin's roles. A role is signed again if its content or its key has
 * changed, or if less than half of its lifetime is left. The others stay, and so does the timestamp if nothing else has changed and it is
 * less than an hour old. A role that is due only by age and whose key is missing stays, too: it must not prevent signing the others, nor a
 * rotation of its own key.
 * @throws SITECAST_ONLINE_KEY_MISSING, SITECAST_METADATA_TOO_LARGE
 */
export async function signOnlineRoles(input: SigningInput): Promise<Committed> {
  const rollouts = await delegated('rollouts', input);
  const deltas = await delegated('deltas', input);
  const snapshot = await nextSnapshot(input, { targets: input.targets, rollouts, deltas });
  const timestamp = await nextTimestamp(input, snapshot);
  return { root: input.root, targets: input.targets, rollouts, deltas, snapshot, timestamp };
}

/** The roles of `next` that are due but were not signed, because their keys are missing. */
export function unsignedRoles(
  next: Committed,
  input: Pick<SigningInput, 'signerOf' | 'nowMs' | 'floor' | 'previous'>,
): OnlineRole[] {
  return ONLINE_ROLES.filter(role => {
    if (input.previous?.[role] !== next[role] || input.signerOf(role)) return false;
    if (role === 'timestamp') return input.nowMs - issuedMsOf(next.timestamp) >= TIMESTAMP_INTERVAL_MS;
    return !isFresh(role, next[role], input);
  });
}

/** The files of `next` that are not those of `previous`. */
export function changedRoles(previous: Committed | undefined, next: Committed): Role[] {
  const roles: Role[] = ['root', 'targets', ...ONLINE_ROLES];
  return roles.filter(role => previous?.[role].bytes !== next[role].bytes);
}

async function delegated(role: 'rollouts' | 'deltas', input: SigningInput): Promise<Metadata<'targets'>> {
  const previous = input.previous?.[role];
  const newTargets = role === 'rollouts' ? input.rolloutsTargets : otherThan(previous, input.deltasTargets);
  if (previous && !newTargets && mayStay(role, previous, input)) return previous;
  return await sign(role, 'targets', input, {
    _type: 'targets',
    ...common(role, input),
    targets: newTargets ?? previous?.signed.targets ?? {},
  });
}

function otherThan(
  previous: Metadata<'targets'> | undefined,
  targets: Record<string, TargetFile> | undefined,
): Record<string, TargetFile> | undefined {
  return isDeepStrictEqual(targets, previous?.signed.targets) ? undefined : targets;
}

async function nextSnapshot(
  input: SigningInput,
  listed: Record<'targets' | 'rollouts' | 'deltas', Metadata<'targets'>>,
): Promise<Metadata<'snapshot'>> {
  const previous = input.previous?.snapshot;
  const isSame =
    input.previous?.targets.bytes === listed.targets.bytes &&
    input.previous.rollouts === listed.rollouts &&
    input.previous.deltas === listed.deltas;
  if (previous && isSame && mayStay('snapshot', previous, input)) return previous;
  return await sign('snapshot', 'snapshot', input, {
    _type: 'snapshot',
    ...common('snapshot', input),
    meta: Object.fromEntries(
      Object.entries(listed).map(([role, metadata]) => [`${role}.json`, metaFileOf(metadata)]),
    ),
  });
}

async function nextTimestamp(
  input: SigningInput,
  snapshot: Metadata<'snapshot'>,
): Promise<Metadata<'timestamp'>> {
  const previous = input.previous?.timestamp;
  const issuedMs = issuedMsFor(input);
  if (
    previous &&
    input.previous?.snapshot === snapshot &&
    input.previous.root.bytes === input.root.bytes &&
    isSignedByCurrentKey('timestamp', previous, input) &&
    (!input.signerOf('timestamp') ||
      (previous.signed.version >= input.floor.timestamp &&
        issuedMs - issuedMsOf(previous) < TIMESTAMP_INTERVAL_MS))
  ) {
    return previous;
  }
  return await sign('timestamp', 'timestamp', input, {
    _type: 'timestamp',
    ...common('timestamp', input),
    issued: toDateTime(issuedMs),
    meta: { 'snapshot.json': metaFileOf(snapshot) },
  });
}

/**
 * When the next timestamp is issued: now, but never before the last one, because clients never go back behind `issued`. A new timestamp key
 * resets that, also in clients, which is the way out after a clock ran far ahead.
 */
function issuedMsFor(input: SigningInput): number {
  const previous = input.previous?.timestamp;
  if (!previous || !isSignedByCurrentKey('timestamp', previous, input)) return input.nowMs;
  return Math.max(input.nowMs, issuedMsOf(previous));
}

function common(role: OnlineRole, input: SigningInput) {
  const version = Math.max(input.previous?.[role].signed.version ?? 0, input.floor[role]) + 1;
  return {
    spec_version: SPEC_VERSION,
    version,
    expires: toDateTime(issuedMsFor(input) + ONLINE_LIFETIME_MS),
  };
}

/** Whether it is signed by the current key, and either isn't due or its key is missing. */
function mayStay(role: OnlineRole, metadata: Metadata, input: SigningInput): boolean {
  if (!isSignedByCurrentKey(role, metadata, input)) return false;
  return isFresh(role, metadata, input) || !input.signerOf(role);
}

/** Whether it isn't due, and isn't behind a version that a client may have seen before a power cut undid it. */
function isFresh(
  role: OnlineRole,
  { signed: { version, expires } }: Metadata,
  { nowMs, floor }: Pick<SigningInput, 'nowMs' | 'floor'>,
): boolean {
  return Date.parse(expires) - nowMs >= ONLINE_LIFETIME_MS / 2 && version >= floor[role];
}

function isSignedByCurrentKey(
  role: OnlineRole,
  metadata: Metadata,
  { root, targets }: SigningInput,
): boolean {
  const signers = signersOf(role, root.signed, targets.signed);
  return countSigners(metadata, signers) >= signers.threshold;
}

async function sign<T extends MetadataType>(
  role: OnlineRole,
  type: T,
  { signerOf, keyMissing }: SigningInput,
  signed: SignedByType[T],
): Promise<Metadata<T>> {
  const signer = signerOf(role);
  if (!signer) throw keyMissing(role);
  const bytes = await signMetadata(signed, [signer]);
  if (bytes.length > maxBytesOf(role)) {
    throw new SitecastError(
      'tooLarge',
      'SITECAST_METADATA_TOO_LARGE',
      `the ${role} metadata would be larger than ${maxBytesOf(role)} bytes`,
      { data: { role, lengthBytes: bytes.length } },
    );
  }
  return parseMetadata(bytes, type);
}

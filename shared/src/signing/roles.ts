import { createHash } from 'node:crypto';
import { SitecastError } from '../errors.ts';
import {
  type DelegatedRole,
  keyIdOf,
  type RoleKeys,
  type SignedRoot,
  type SignedTargets,
  type TargetFile,
  type TufKey,
  toDateTime,
} from '../trust/index.ts';
import type { OperatorRole } from './key-files.ts';

const SPEC_VERSION = '1.0.31';
const DAY_MS = 86_400_000;
/** How long operators' signatures hold: root and targets. */
const OFFLINE_LIFETIME_MS = 365 * DAY_MS;

/** The roles whose keys the origin holds. */
export const ONLINE_ROLES = ['timestamp', 'snapshot', 'rollouts', 'deltas'] as const;
export type OnlineRole = (typeof ONLINE_ROLES)[number];
export type OnlineKeys = Record<OnlineRole, TufKey>;

const DELEGATED_PATHS = { rollouts: 'rollouts/*', deltas: 'deltas/*' } as const;

export interface OperatorKeys {
  keys: readonly TufKey[];
  threshold: number;
}

/** The first root of a repository (TUF 1.0 section 4.3). */
export function firstRoot(
  root: OperatorKeys,
  release: OperatorKeys,
  online: OnlineKeys,
  nowMs: number,
): SignedRoot {
  const all = [...root.keys, ...release.keys, online.timestamp, online.snapshot];
  return {
    _type: 'root',
    spec_version: SPEC_VERSION,
    version: 1,
    expires: toDateTime(nowMs + OFFLINE_LIFETIME_MS),
    consistent_snapshot: true,
    keys: byKeyId(all),
    roles: {
      root: roleKeys(root.keys, root.threshold),
      targets: roleKeys(release.keys, release.threshold),
      timestamp: roleKeys([online.timestamp], 1),
      snapshot: roleKeys([online.snapshot], 1),
    },
  };
}

/** The first targets: no release yet, and the origin's two delegated roles (TUF 1.0 section 4.5). */
export function firstTargets(online: OnlineKeys, nowMs: number): SignedTargets {
  const delegate = (name: 'rollouts' | 'deltas'): DelegatedRole => ({
    name,
    ...roleKeys([online[name]], 1),
    terminating: true,
    paths: [DELEGATED_PATHS[name]],
  });
  return {
    _type: 'targets',
    spec_version: SPEC_VERSION,
    version: 1,
    expires: toDateTime(nowMs + OFFLINE_LIFETIME_MS),
    targets: {},
    delegations: {
      keys: byKeyId([online.rollouts, online.deltas]),
      roles: [delegate('rollouts'), delegate('deltas')],
    },
  };
}

/** The same role one version on, valid for another year: what `keys renew` signs, and the start of every change. */
export function nextVersion<T extends SignedRoot | SignedTargets>(signed: T, nowMs: number): T {
  return {
    ...structuredClone(signed),
    version: signed.version + 1,
    expires: toDateTime(nowMs + OFFLINE_LIFETIME_MS),
  };
}

export function targetFileOf(bytes: Uint8Array): TargetFile {
  return { length: bytes.length, hashes: { sha256: createHash('sha256').update(bytes).digest('hex') } };
}

export interface KeyChange {
  add?: readonly TufKey[];
  /** Key ids, or the first 8 digits or more of one. */
  remove?: readonly string[];
  /** Without it, the old one stays. */
  threshold?: number | undefined;
}

/**
 * The next root, with other keys for the operators' `role`.
 * @throws SITECAST_KEY_CHANGE_INVALID where nobody could sign afterwards, or a key to remove isn't there
 */
export function withOperatorKeys(
  root: SignedRoot,
  role: OperatorRole,
  change: KeyChange,
  nowMs: number,
): SignedRoot {
  const next = nextVersion(root, nowMs);
  const name = role === 'release' ? 'targets' : 'root';
  next.roles[name] = changedRole(next.roles[name], next.keys, change);
  for (const key of change.add ?? []) next.keys[keyIdOf(key)] = key;
  dropUnusedKeys(next);
  return next;
}

/** The next root, with another key of the origin's for `role`. */
export function withOnlineRootKey(
  root: SignedRoot,
  role: 'timestamp' | 'snapshot',
  key: TufKey,
  nowMs: number,
): SignedRoot {
  const next = nextVersion(root, nowMs);
  next.roles[role] = roleKeys([key], 1);
  next.keys[keyIdOf(key)] = key;
  dropUnusedKeys(next);
  return next;
}

/** The next targets, with another key of the origin's for a delegated role. */
export function withOnlineDelegatedKey(
  targets: SignedTargets,
  role: 'rollouts' | 'deltas',
  key: TufKey,
  nowMs: number,
): SignedTargets {
  const next = nextVersion(targets, nowMs);
  const delegation = next.delegations?.roles?.find(({ name }) => name === role);
  if (!next.delegations || !delegation) throw invalidChange(`targets delegates nothing to ${role}`);
  Object.assign(delegation, roleKeys([key], 1));
  next.delegations.keys[keyIdOf(key)] = key;
  const used = new Set(next.delegations.roles?.flatMap(({ keyids }) => keyids));
  for (const keyId of Object.keys(next.delegations.keys))
    if (!used.has(keyId)) delete next.delegations.keys[keyId];
  return next;
}

function changedRole(
  before: RoleKeys,
  keys: Record<string, TufKey>,
  { add = [], remove = [], threshold }: KeyChange,
): RoleKeys {
  const keyids = new Set(before.keyids);
  for (const wanted of remove) {
    const matches = before.keyids.filter(
      id => id === wanted || (wanted.length >= 8 && id.startsWith(wanted)),
    );
    const [match] = matches;
    if (match === undefined || matches.length > 1)
      throw invalidChange(`no single key of the role is called ${wanted}`);
    keyids.delete(match);
  }
  for (const key of add) {
    const keyId = keyIdOf(key);
    if (Object.hasOwn(keys, keyId) && !before.keyids.includes(keyId)) {
      throw invalidChange(`the key ${keyId.slice(0, 8)} signs for another role already: make a new one`);
    }
    keyids.add(keyId);
  }
  const after = { ...before, keyids: [...keyids], threshold: threshold ?? before.threshold };
  if (after.threshold < 1 || after.threshold > after.keyids.length) {
    throw invalidChange(`${after.keyids.length} keys can't reach a threshold of ${after.threshold}`);
  }
  return after;
}

function dropUnusedKeys(root: SignedRoot): void {
  const used = new Set(Object.values(root.roles).flatMap(({ keyids }) => keyids));
  for (const keyId of Object.keys(root.keys)) if (!used.has(keyId)) delete root.keys[keyId];
}

function roleKeys(keys: readonly TufKey[], threshold: number): RoleKeys {
  const keyids = [...new Set(keys.map(keyIdOf))];
  if (threshold < 1 || threshold > keyids.length) {
    throw invalidChange(`${keyids.length} keys can't reach a threshold of ${threshold}`);
  }
  return { keyids, threshold };
}

function byKeyId(keys: readonly TufKey[]): Record<string, TufKey> {
  return Object.fromEntries(keys.map(key => [keyIdOf(key), key]));
}

function invalidChange(reason: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_KEY_CHANGE_INVALID', reason);
}

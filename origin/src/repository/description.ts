import type { ErrorCode } from '@sitecast/shared/errors';
import { ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import type { TufKey } from '@sitecast/shared/trust';
import { ROLES, type Role, signersOf } from './committed.ts';
import { clockBehindMs } from './online-roles.ts';
import type { Repository } from './repository.ts';

const DAY_MS = 86_400_000;
/** When the operators' roles are to be renewed at the latest, for people to have time to come together. */
const WARN_BEFORE_MS = 30 * DAY_MS;

export interface Warning {
  role: Role;
  code: ErrorCode;
  message: string;
}

export interface RepositoryDescription {
  initialised: boolean;
  onlineKeys: Partial<Record<OnlineRole, TufKey>>;
  pendingKeys: Partial<Record<OnlineRole, TufKey>>;
  versions: Partial<Record<Role, number>>;
  /** RFC 3339 */
  expires: Partial<Record<Role, string>>;
  warnings: Warning[];
}

/** What operators need to know of a repository. */
export function describeRepository(repository: Repository, nowMs: number): RepositoryDescription {
  const { committed, keys } = repository;
  const description: RepositoryDescription = {
    initialised: committed !== undefined,
    onlineKeys: {},
    pendingKeys: {},
    versions: repository.versions(),
    expires: {},
    warnings: warningsOf(repository, nowMs),
  };
  for (const role of ONLINE_ROLES) {
    const active = keys.active(role);
    const pending = keys.pending(role);
    if (active) description.onlineKeys[role] = active.key;
    if (pending) description.pendingKeys[role] = pending.key;
  }
  if (committed) for (const role of ROLES) description.expires[role] = committed[role].signed.expires;
  return description;
}

/** Seconds until each role expires, negative afterwards. */
export function secondsLeft(repository: Repository, nowMs: number): Partial<Record<Role, number>> {
  const { committed } = repository;
  if (!committed) return {};
  return Object.fromEntries(
    ROLES.map(role => [role, Math.floor((Date.parse(committed[role].signed.expires) - nowMs) / 1000)]),
  );
}

/** What will stop clients from accepting the repository, soon or already. */
export function warningsOf({ committed, keys }: Repository, nowMs: number): Warning[] {
  if (!committed) return [];
  const warnings: Warning[] = [];
  for (const role of ROLES) {
    const { expires } = committed[role].signed;
    const leftMs = Date.parse(expires) - nowMs;
    const isOffline = role === 'root' || role === 'targets';
    if (leftMs <= 0) {
      warnings.push({ role, code: 'SITECAST_ROLE_EXPIRED', message: `${role} expired at ${expires}` });
    } else if (isOffline && leftMs < WARN_BEFORE_MS) {
      const days = Math.floor(leftMs / DAY_MS);
      warnings.push({
        role,
        code: 'SITECAST_ROLE_EXPIRES_SOON',
        message: `${role} expires at ${expires}, in ${days} days: renew it with sitecast keys renew`,
      });
    }
  }
  for (const role of ONLINE_ROLES) {
    const [keyId] = signersOf(role, committed.root.signed, committed.targets.signed).keyids;
    if (keyId !== undefined && keys.withId(role, keyId)) continue;
    warnings.push({
      role,
      code: 'SITECAST_ONLINE_KEY_MISSING',
      message: `the origin doesn't have the key that signs ${role}: rotate it, or bring keys/${role}.pem back`,
    });
  }
  const behindMs = clockBehindMs(committed, nowMs);
  if (behindMs > 0) {
    warnings.push({
      role: 'timestamp',
      code: 'SITECAST_CLOCK_BEHIND',
      message: `the origin's clock is ${Math.ceil(behindMs / 1000)} s behind the last timestamp it signed`,
    });
  }
  return warnings;
}

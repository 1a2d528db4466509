import { isDeepStrictEqual } from 'node:util';
import { SitecastError } from '@sitecast/shared/errors';
import { ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import {
  delegatedSigners,
  keyIdentityOf,
  keyIdOf,
  type Metadata,
  type RoleSigners,
  TOP_LEVEL_ROLES,
  toDateTime,
  topLevelSigners,
  verifyThreshold,
} from '@sitecast/shared/trust';
import type { OnlineKeys } from '../keys/online-keys.ts';

const DELEGATED_PATHS = { rollouts: 'rollouts/*', deltas: 'deltas/*' } as const;
/** The longest lifetime of operators' signatures that is accepted: a longer one is a mistyped year. */
const MAX_OFFLINE_LIFETIME_MS = 10 * 366 * 86_400_000;

/**
 * Checks the next root (TUF 1.0 sections 5.3.4 and 5.3.5, and what a client could never recover from), but for its expiry.
 * @param current undefined for the first root
 * @param keys the origin's own; undefined for a root that was in force before: it may name others
 * @throws SITECAST_VERSION_CONFLICT, SITECAST_SIGNATURES_MISSING, SITECAST_KEY_ID_WRONG,
 *   SITECAST_THRESHOLD_UNREACHABLE, SITECAST_CONSISTENT_SNAPSHOT_OFF,
 *   SITECAST_ONLINE_KEY_WRONG, SITECAST_ONLINE_KEY_OFFLINE
 */
export function checkRoot(
  root: Metadata<'root'>,
  current: Metadata<'root'> | undefined,
  keys: OnlineKeys | undefined,
): void {
  checkNextVersion('root', root, current);
  if (current) {
    verifyThreshold(root, topLevelSigners(current.signed, 'root'), { role: 'root', step: '5.3.4' });
  }
  verifyThreshold(root, topLevelSigners(root.signed, 'root'), { role: 'root', step: '5.3.4' });
  if (root.signed.consistent_snapshot !== true) {
    throw new SitecastError(
      'badInput',
      'SITECAST_CONSISTENT_SNAPSHOT_OFF',
      'the root must set consistent_snapshot: files of a published repository never change under one name',
    );
  }
  for (const role of TOP_LEVEL_ROLES) checkRoleKeys(role, topLevelSigners(root.signed, role));
  if (!keys) return;
  for (const role of ['timestamp', 'snapshot'] as const) {
    const before = current && topLevelSigners(current.signed, role);
    checkNamesOnlineKey(role, topLevelSigners(root.signed, role), before, keys);
  }
  for (const role of ['root', 'targets'] as const) {
    refuseOnlineKeys(role, topLevelSigners(root.signed, role), keys);
  }
}

/**
 * Checks signatures and delegations of top-level targets under a root; not their version and expiry.
 * @param current those in force
 * @param keys the origin's own; undefined for targets that were in force before: they may name others
 * @throws SITECAST_SIGNATURES_MISSING, SITECAST_DELEGATIONS_WRONG, SITECAST_ONLINE_KEY_WRONG
 */
export function checkTargetsMetadata(
  targets: Metadata<'targets'>,
  root: Metadata<'root'>,
  current: Metadata<'targets'> | undefined,
  keys: OnlineKeys | undefined,
): void {
  verifyThreshold(targets, topLevelSigners(root.signed, 'targets'), { role: 'targets', step: '5.6.3' });
  const { delegations } = targets.signed;
  for (const role of ['rollouts', 'deltas'] as const) {
    const signers = delegatedSigners(delegations, role);
    const found = delegations?.roles?.find(({ name }) => name === role);
    if (!signers || found?.paths?.length !== 1 || found.paths[0] !== DELEGATED_PATHS[role]) {
      throw delegationsWrong(`targets must delegate exactly ${DELEGATED_PATHS[role]} to ${role}`);
    }
    if (keys) checkNamesOnlineKey(role, signers, delegatedSigners(current?.signed.delegations, role), keys);
  }
  if (delegations?.roles?.length !== 2) {
    throw delegationsWrong('targets may delegate to the roles rollouts and deltas alone');
  }
}

/** @throws SITECAST_VERSION_CONFLICT (conflict) with {role, expected, found} */
export function checkNextVersion(role: string, next: Metadata, current: Metadata | undefined): void {
  const expected = (current?.signed.version ?? 0) + 1;
  const found = next.signed.version;
  if (found === expected) return;
  throw new SitecastError(
    'conflict',
    'SITECAST_VERSION_CONFLICT',
    `the next ${role} metadata must have version ${expected}, this one has ${found}`,
    {
      hint: 'Start again from what is published now: somebody else may have published in between.',
      data: { role, expected, found },
    },
  );
}

/** @throws SITECAST_EXPIRY_PAST, SITECAST_EXPIRY_FAR (badInput) */
export function checkExpiry(role: string, { signed }: Metadata, nowMs: number): void {
  const expiresMs = Date.parse(signed.expires);
  const data = { role, expires: signed.expires };
  if (expiresMs <= nowMs) {
    throw new SitecastError(
      'badInput',
      'SITECAST_EXPIRY_PAST',
      `the ${role} metadata expired at ${signed.expires}; the origin's clock says ${toDateTime(nowMs)}`,
      {
        hint: "Sign it anew; if it was signed just now, one of the clocks is wrong: the signing machine's or the origin's.",
        data,
      },
    );
  }
  if (expiresMs > nowMs + MAX_OFFLINE_LIFETIME_MS) {
    throw new SitecastError(
      'badInput',
      'SITECAST_EXPIRY_FAR',
      `the ${role} metadata would hold until ${signed.expires}; the origin's clock says ${toDateTime(nowMs)}, and more than ten years are refused`,
      { data },
    );
  }
}

/** Key ids must be what they claim, and as many different usable keys must be there as have to sign. */
function checkRoleKeys(role: string, { keys, keyids, threshold }: RoleSigners): void {
  const identities = new Set<string>();
  for (const keyid of keyids) {
    const key = Object.hasOwn(keys, keyid) ? keys[keyid] : undefined;
    if (!key) continue;
    if (keyIdOf(key) !== keyid) {
      throw new SitecastError(
        'badInput',
        'SITECAST_KEY_ID_WRONG',
        `a key of ${role} isn't listed under its own id`,
        {
          data: { role, listed: keyid, actual: keyIdOf(key) },
        },
      );
    }
    const identity = keyIdentityOf(key);
    if (identity !== undefined) identities.add(identity);
  }
  if (identities.size >= threshold) return;
  throw new SitecastError(
    'badInput',
    'SITECAST_THRESHOLD_UNREACHABLE',
    `${role} wants ${threshold} signatures and has ${identities.size} usable keys: nobody could ever sign it again`,
    { data: { role, threshold, keys: identities.size } },
  );
}

/**
 * The role must be signed by exactly one key, and that must be the origin's own: its active or its pending one. The key that is in
 * force may stay even if the origin has lost it. Otherwise no other change could be made, and of two lost keys neither could be
 * rotated.
 * @param before the signers in force
 */
function checkNamesOnlineKey(
  role: OnlineRole,
  { keys, keyids, threshold }: RoleSigners,
  before: RoleSigners | undefined,
  online: OnlineKeys,
): void {
  if (before && before.threshold === threshold && isDeepStrictEqual(before.keyids, keyids)) return;
  const [keyid] = keyids;
  const own = keyid === undefined ? undefined : online.withId(role, keyid);
  const listed = keyid === undefined ? undefined : keys[keyid];
  if (keyids.length === 1 && threshold === 1 && own && listed && keyIdOf(listed) === own.keyId) return;
  throw new SitecastError(
    'conflict',
    'SITECAST_ONLINE_KEY_WRONG',
    `${role} must name this origin's ${role} key, and no other, with threshold 1`,
    {
      hint: 'Ask the origin for its keys again; they change with a rotation.',
      data: { role, expected: [online.active(role)?.keyId, online.pending(role)?.keyId], found: keyids },
    },
  );
}

function refuseOnlineKeys(role: string, { keys, keyids }: RoleSigners, online: OnlineKeys): void {
  const own = new Set<string | undefined>();
  for (const onlineRole of ONLINE_ROLES) {
    for (const pair of [online.active(onlineRole), online.pending(onlineRole)]) {
      if (pair) own.add(keyIdentityOf(pair.key));
    }
  }
  for (const keyid of keyids) {
    const key = keys[keyid];
    if (!key || !own.has(keyIdentityOf(key))) continue;
    throw new SitecastError(
      'badInput',
      'SITECAST_ONLINE_KEY_OFFLINE',
      `${role} names a key that lies on the origin: whoever breaks into it could sign as an operator`,
      { data: { role, keyid } },
    );
  }
}

function delegationsWrong(message: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_DELEGATIONS_WRONG', message);
}

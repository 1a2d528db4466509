import { plural } from '@sitecast/shared/text';
import type { ErrorCode } from '@sitecast/shared/errors';
import { parseTargetName } from '@sitecast/shared/release';
import { ONLINE_ROLES, type OnlineRole } from '@sitecast/shared/signing';
import type { TufKey } from '@sitecast/shared/trust';
import type { DamagedDelta, DamagedRelease } from './damage.ts';
import type { Repository } from './repository.ts';
import { ROLES, type Role } from './roles.ts';

const DAY_MS = 86_400_000;
/** When the operators' roles are to be renewed at the latest, for people to have time to come together. */
const WARN_BEFORE_MS = 30 * DAY_MS;

export interface Warning {
  /** `tls`: the origin's own certificate. */
  role: Role | 'tls';
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
  /** Published releases, signed deltas and files that are damaged or lost; the first hundred of each. */
  damage: { releases: DamagedRelease[]; deltas: DamagedDelta[]; files: string[] };
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
    damage: {
      releases: repository.damage.namedReleases(),
      deltas: repository.damage.namedDeltas(),
      files: repository.damage.namedFiles(),
    },
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

/** Why clients don't get what they need from this origin, or soon won't; undefined if they do. */
export function whyNotReady(
  repository: Repository,
  nowMs: number,
): Pick<Warning, 'code' | 'message'> | undefined {
  const warning = warningsOf(repository, nowMs).find(found => isUrgent(found, repository));
  if (warning || repository.isSettled) return warning;
  return { code: 'SITECAST_NOT_READY', message: 'the end of a change could not be written to the disk yet' };
}

const URGENT: ReadonlySet<ErrorCode> = new Set([
  'SITECAST_ROLE_EXPIRED',
  'SITECAST_ONLINE_KEY_MISSING',
  'SITECAST_CERTIFICATE_EXPIRED',
]);

/** Whether a warning can't wait until an operator looks. */
export function isUrgent({ code }: Warning, { clockDoubt }: Repository): boolean {
  if (code === clockDoubt?.code) return clockDoubt.isFelt;
  return URGENT.has(code);
}

/** What stops clients from accepting the repository, soon or already. */
export function warningsOf(repository: Repository, nowMs: number): Warning[] {
  return [
    ...signingWarnings(repository),
    ...expiryWarnings(repository, nowMs),
    ...damageWarnings(repository),
  ];
}

function expiryWarnings({ committed, clockDoubt }: Repository, nowMs: number): Warning[] {
  // Nothing counts as expired by a clock that isn't believed.
  if (!committed || clockDoubt?.isRefused === true) return [];
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
  return warnings;
}

const RECOVER = 'bring it back with sitecast-origin recover --damaged-only --from GATEWAY';

const MEANWHILE = 'devices take chunks meanwhile';

/** How an operator brings a target file or an old root back. @param isSigned whether operators have signed that it is listed */
function remedyFor(name: string, isSigned: boolean): string {
  const target = parseTargetName(name);
  if (target?.kind === 'index') return 'publish the release again with the same image';
  if (target?.kind === 'recipe' || target?.kind === 'patchIndex')
    return isSigned
      ? `${RECOVER}, or submit the draft that brought it; ${MEANWHILE}`
      : `the origin makes it again; ${MEANWHILE}`;
  if (target?.kind !== 'manifest') return RECOVER;
  const { product, counter } = target;
  return `${RECOVER}; where no gateway has it, submit the draft that brought it, or give it up: sitecast release withdraw ${product} VERSION --counter ${counter}`;
}

/** They are of the `targets` role, which lists the files. */
function damageWarnings({ damage, committed }: Repository): Warning[] {
  const warnings: Warning[] = damage.namedReleases().map(({ product, counter, version, chunks }) => ({
    role: 'targets',
    code: 'SITECAST_CHUNKS_LOST',
    message: `release ${version ?? counter} of ${product} lacks ${plural(chunks, 'chunk')}, damaged or lost: publish it again with the same image, or ${RECOVER}`,
  }));
  for (const { product, from, to, chunks } of damage.namedDeltas())
    warnings.push({
      role: 'targets',
      code: 'SITECAST_CHUNKS_LOST',
      message: `the signed delta of ${product} from the counter ${from} to ${to} lacks ${plural(chunks, 'chunk')}, damaged or lost: ${RECOVER}, or draft it anew; ${MEANWHILE}`,
    });
  const named = damage.namedFiles();
  const more = damage.files - named.length;
  const byRemedy = new Map<string, string[]>();
  for (const name of named) {
    const remedy = remedyFor(name, Object.hasOwn(committed?.targets.signed.targets ?? {}, name));
    byRemedy.set(remedy, [...(byRemedy.get(remedy) ?? []), name]);
  }
  for (const [remedy, files] of byRemedy)
    warnings.push({
      role: 'targets',
      code: 'SITECAST_FILES_LOST',
      message: `${files.length === 1 ? '1 published file is' : `${files.length} published files are`} damaged or lost (${files.join(', ')}): ${remedy}`,
    });
  if (more > 0)
    warnings.push({
      role: 'targets',
      code: 'SITECAST_FILES_LOST',
      message: `${more} more published files are damaged or lost: ${RECOVER}`,
    });
  return warnings;
}

/** Why the origin signs nothing, or why what it signs does harm. */
function signingWarnings(repository: Repository): Warning[] {
  const warnings: Warning[] = [];
  const doubt = repository.clockDoubt;
  if (doubt)
    warnings.push({ role: 'timestamp', code: doubt.code, message: `${doubt.message}. ${doubt.hint}` });
  for (const { role, problem } of repository.missingKeys) {
    warnings.push({
      role,
      code: 'SITECAST_ONLINE_KEY_MISSING',
      message: `the origin can't sign ${role}: ${problem}; bring it back from a backup and restart, or run sitecast keys rotate ${role}`,
    });
  }
  return warnings;
}

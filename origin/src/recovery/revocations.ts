import type { RolloutsFile } from '@sitecast/shared/fleet';
import type { Member, MemberKind } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import type { AuditEvent, AuditLog } from '../audit/audit.ts';

const PAGE = 1000;
/** Larger than any serial so far. Of two assignments, gateways keep the one with the higher serial. */
const SERIAL_STEP = 1_000_000;
/** The site of a member of which only its revocation is known. */
const UNKNOWN_SITE = 'unknown';

/** All revocations that are known from any source. */
interface Told {
  /** By id; the kind if that is known. */
  members: Map<string, MemberKind | undefined>;
  tokens: Set<string>;
  joinTokens: Set<string>;
}

/** What has to be revoked again. */
export interface LostRevocations {
  /** Devices and gateways that the database doesn't have as revoked, in their revoked form. */
  members: readonly Member[];
  /** Ids of revoked API tokens and join tokens. The database may or may not still have them. */
  tokens: readonly string[];
  joinTokens: readonly string[];
}

/** Where members and tokens are kept. */
export interface RevocationStore {
  /** Revokes all of them, and records the event: durable together when this resolves. */
  revokeAgain(lost: LostRevocations, event: AuditEvent): Promise<void>;
}

/**
 * Looks for revocations that the database has lost: in the signed rollout files, which list revoked ids, and in the audit log, which
 * has an entry for each.
 * @param files by product
 */
export async function restoreRevocations(
  {
    audit,
    registry,
    now,
  }: { audit: Pick<AuditLog, 'find'>; registry: Pick<Registry, 'member'>; now: () => number },
  files: ReadonlyMap<string, RolloutsFile>,
): Promise<LostRevocations> {
  const told = await toldIn(audit);
  for (const { revoked } of files.values())
    for (const id of revoked) if (!told.members.has(id)) told.members.set(id, undefined);
  const at = new Date(now()).toISOString();
  const members: Member[] = [];
  for (const [id, kind] of told.members) {
    const member = registry.member(id);
    if (member?.revokedAt !== undefined) continue;
    const product = [...files].find(([, { revoked }]) => revoked.includes(id))?.[0];
    members.push(member ? revokedAgain(member, at) : revokedStranger(id, { kind, product }, at));
  }
  return { members, tokens: [...told.tokens], joinTokens: [...told.joinTokens] };
}

async function toldIn(audit: Pick<AuditLog, 'find'>): Promise<Told> {
  const told: Told = { members: new Map(), tokens: new Set(), joinTokens: new Set() };
  for (let after = 0; ; ) {
    const { entries } = await audit.find(after, PAGE);
    const last = entries.at(-1);
    if (!last) return told;
    after = last.seq;
    for (const { action, subject, details } of entries) {
      const id = subject.slice(subject.indexOf(':') + 1);
      if (action === 'device.revoke') told.members.set(id, 'device');
      if (action === 'gateway.revoke') told.members.set(id, 'gateway');
      if (action === 'joinToken.revoke') told.joinTokens.add(id);
      if (action === 'token.revoke' && typeof details?.id === 'string') told.tokens.add(details.id);
    }
  }
}

function revokedAgain(member: Member, at: string): Member {
  return { ...member, serial: member.serial + SERIAL_STEP, changedAt: at, revokedAt: at };
}

/** Every product's file lists revoked gateways, so a gateway is the safe guess if the kind isn't known. */
function revokedStranger(
  id: string,
  { kind, product }: { kind: MemberKind | undefined; product: string | undefined },
  at: string,
): Member {
  const isDevice = kind === 'device' && product !== undefined;
  return {
    id,
    ...(isDevice ? { kind: 'device' as const, product } : { kind: 'gateway' as const }),
    site: UNKNOWN_SITE,
    tags: {},
    serial: SERIAL_STEP,
    enrolledAt: at,
    changedAt: at,
    revokedAt: at,
    letInBy: { operator: 'origin' },
  };
}

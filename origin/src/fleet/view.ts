import { nameKey } from '@sitecast/shared/fleet';
import { assignmentOf, type Member, type MemberKind } from './member.ts';
import type { PendingMember } from './pending.ts';
import type { ShownCondition } from './gateway-condition.ts';
import type { PresenceState } from './presence.ts';
import { lastHeardMs, lastSeenMs, type Sources } from './presence-view.ts';
import type { Anomaly, Status } from './status.ts';

/** What a list shows of a device or gateway. */
export interface MemberSummary extends ShownCondition {
  id: string;
  kind: MemberKind;
  name?: string;
  product?: string;
  hardware?: string;
  site?: string;
  tags: Record<string, string>;
  /** State of its last report; `enrolled` before the first, `pending` for a newcomer that waits, `revoked`. */
  state: string;
  serial?: number;
  enrolledAt?: string;
  revokedAt?: string;
  quarantinedAt?: string;
  /** Kinds of anomalies in its chains of reports, each once. */
  odd: Anomaly['kind'][];
  lastSeenAt?: string;
  /** Of a member that isn't revoked: what gateways report now; of a gateway, whether it is silent. */
  presence?: PresenceState;
  last?: Status['last'];
  /** Of a newcomer that waits: the gateway that relays it. */
  via?: string;
  /** Of a newcomer that waits and that gateways of several sites have relayed: these sites. */
  sites?: string[];
  /** Of a newcomer that waits: the name that it, or its token, asks for. */
  wish?: string;
  /** The member that bears that name now. */
  wishBearer?: { id: string; kind: MemberKind; lastHeardAt: string };
}

export interface MemberQuery {
  kind: MemberKind;
  product?: string | undefined;
  site?: string | undefined;
  tags?: Record<string, string> | undefined;
  state?: string | undefined;
  /** The beginning or the end of an id, or a whole name. */
  idPart?: string | undefined;
  /** Label of the release that runs, by the last report. */
  version?: string | undefined;
  /** Members that haven't been heard for so long; none that is revoked. */
  silentForMs?: number | undefined;
  nowMs: number;
  after?: string | undefined;
  limit: number;
}

function stateOf(member: Member, status: Status | undefined): string {
  if (member.revokedAt !== undefined) return 'revoked';
  return status?.last.state ?? 'enrolled';
}

/** Members in the order of their ids; where there are more, the cursor from which the next page goes on. */
export function listMembers(
  sources: Sources,
  query: MemberQuery,
): { members: MemberSummary[]; nextCursor?: string } {
  const { registry } = sources;
  const members: MemberSummary[] = [];
  for (const member of registry.from(query.after)) {
    if (!fits(member, registry.status(member.id), query) || !isSilent(member, sources, query)) continue;
    const last = members.at(-1);
    if (members.length === query.limit && last) return { members, nextCursor: last.id };
    members.push(summaryOf(member, sources));
  }
  return { members };
}

function fits(member: Member, status: Status | undefined, query: MemberQuery): boolean {
  return (
    member.kind === query.kind &&
    isAsked(query.product, member.product) &&
    isAsked(query.site, member.site) &&
    isAsked(query.state, stateOf(member, status)) &&
    isAsked(query.version, status?.last.booted?.release?.version) &&
    isMeant(member, query.idPart) &&
    Object.entries(query.tags ?? {}).every(
      ([name, value]) => Object.hasOwn(member.tags, name) && member.tags[name] === value,
    )
  );
}

function isAsked(wanted: string | undefined, found: string | undefined): boolean {
  return wanted === undefined || wanted === found;
}

function isMeant({ id, name }: Member, part: string | undefined): boolean {
  if (part === undefined || id.startsWith(part) || id.endsWith(part)) return true;
  return name !== undefined && nameKey(name) === nameKey(part);
}

function isSilent(member: Member, sources: Sources, { silentForMs, nowMs }: MemberQuery): boolean {
  if (silentForMs === undefined) return true;
  // Its gateway reports once a minute: in between the device counts as heard.
  if (sources.presence.stateOf(member) === 'heard') return silentForMs === 0;
  return member.revokedAt === undefined && nowMs - heardMs(member, sources) >= silentForMs;
}

/** When anything last came of the member; its enrolment at the least. */
function heardMs(member: Member, sources: Sources): number {
  return lastHeardMs(member, sources) ?? Date.parse(member.enrolledAt);
}

export function summaryOf(member: Member, sources: Sources): MemberSummary {
  const { registry, presence } = sources;
  const status = registry.status(member.id);
  const seenMs = lastSeenMs(member, sources);
  const heard = member.revokedAt === undefined ? presence.stateOf(member) : undefined;
  const { format: _format, revoked: _revoked, issuedAt: _issuedAt, ...assignment } = assignmentOf(member);
  const { id, kind, name, product, hardware, site, tags, serial, enrolledAt } = assignment;
  return {
    id,
    kind,
    ...(name !== undefined && { name }),
    ...(product !== undefined && { product }),
    ...(hardware !== undefined && { hardware }),
    site,
    tags,
    state: stateOf(member, status),
    serial,
    enrolledAt,
    ...(member.revokedAt !== undefined && { revokedAt: member.revokedAt }),
    ...(status?.quarantinedAt !== undefined && { quarantinedAt: status.quarantinedAt }),
    odd: [...new Set(status?.anomalies.map(({ kind }) => kind))],
    ...(seenMs !== undefined && { lastSeenAt: new Date(seenMs).toISOString() }),
    ...(heard && { presence: heard }),
    ...(heard && kind === 'gateway' && presence.conditionOf(member)),
    ...(status && { last: status.last }),
  };
}

export function pendingSummary(pending: PendingMember, sources: Sources): MemberSummary {
  const { id, kind, product, hardware, site, sites = [], via, wish, lastAskedMs } = pending;
  const bearer = wish === undefined ? undefined : sources.registry.named(wish);
  return {
    id,
    kind,
    ...(product !== undefined && { product }),
    ...(hardware !== undefined && { hardware }),
    ...(site !== undefined && { site }),
    tags: {},
    state: 'pending',
    odd: [],
    lastSeenAt: new Date(lastAskedMs).toISOString(),
    ...(via !== undefined && { via }),
    ...(sites.length > 1 && { sites }),
    ...(wish !== undefined && { wish }),
    ...(bearer && {
      wishBearer: {
        id: bearer.id,
        kind: bearer.kind,
        lastHeardAt: new Date(heardMs(bearer, sources)).toISOString(),
      },
    }),
  };
}

import { SitecastError } from '@sitecast/shared/errors';
import type { Enrolment } from '@sitecast/shared/fleet';
import type { Member, MemberKind } from './member.ts';
import type { PendingMember } from './pending.ts';

/** The member, for a newcomer that is in already: the answer to its first request may have got lost. No token is used again. */
export function alreadyIn(member: Member, { kind, product, hardware }: Enrolment): Member {
  if (member.revokedAt !== undefined) throw revoked(member);
  if (kind === member.kind && product === member.product && hardware === member.hardware) return member;
  throw new SitecastError(
    'conflict',
    'SITECAST_ENROLMENT_CONFLICT',
    `${member.id} is enrolled as a ${describe(member)}, and asks to be a ${describe({ kind, product, hardware })}`,
    { hint: 'A machine that became another one needs another identity: give it an empty --data directory.' },
  );
}

export function foreign(id: string): SitecastError {
  return new SitecastError(
    'forbidden',
    'SITECAST_ENROLMENT_FOREIGN',
    `the enrolment is ${id}'s: only itself or an enrolled gateway may bring it`,
  );
}

function describe(what: {
  kind: MemberKind;
  product?: string | undefined;
  hardware?: string | undefined;
}): string {
  return [what.kind, what.product, what.hardware].filter(part => part !== undefined).join(' ');
}

export function checkComplete({ kind, product, hardware }: Enrolment): void {
  if (kind === 'gateway' || (product !== undefined && hardware !== undefined)) return;
  throw new SitecastError(
    'badInput',
    'SITECAST_ENROLMENT_INCOMPLETE',
    'a device must say its product and its hardware',
  );
}

export function revoked({ id, revokedAt }: Member): SitecastError {
  return new SitecastError('forbidden', 'SITECAST_DEVICE_REVOKED', `${id} was revoked at ${revokedAt}`, {
    hint: 'A revoked identity never comes back: begin with an empty --data directory, which makes a new one.',
  });
}

export function notPending(kind: MemberKind, id: string): SitecastError {
  return new SitecastError('notFound', 'SITECAST_NOT_PENDING', `no ${kind} with the id ${id} is waiting`, {
    hint: `sitecast ${kind} list --pending shows who is; one that stopped asking is forgotten after a day.`,
  });
}

export function siteMissing(kind: MemberKind): SitecastError {
  return new SitecastError('badInput', 'SITECAST_SITE_MISSING', `nobody says at which site this ${kind} is`, {
    hint:
      kind === 'device'
        ? 'Let it come through a gateway, or make a token with --site.'
        : 'Start the gateway with --site NAME, or make a token with --site.',
  });
}

/** Gateways of several sites have relayed the newcomer; one of them may have replayed a request that it saw elsewhere. */
function siteAmbiguous(
  { id, kind }: { id: string; kind: MemberKind },
  sites: readonly string[],
): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_SITE_AMBIGUOUS',
    `${id} was seen at several sites: ${sites.join(', ')}`,
    {
      hint: `Say where it is: sitecast ${kind} accept ${id} with ${sites.map(site => `--site ${site}`).join(' or ')}. A gateway of a site where it never was may be in other hands.`,
      data: { sites },
    },
  );
}

/** The site of a newcomer that waits. @param said by an operator @throws SITECAST_SITE_MISSING, SITECAST_SITE_AMBIGUOUS */
export function siteOf(waiting: PendingMember, said: string | undefined): string {
  const { kind, site, sites = [] } = waiting;
  if (said !== undefined) return said;
  if (sites.length > 1) throw siteAmbiguous(waiting, sites);
  if (site === undefined) throw siteMissing(kind);
  return site;
}

export function nameTaken(name: string, { kind, id }: Member): SitecastError {
  return new SitecastError(
    'conflict',
    'SITECAST_NAME_TAKEN',
    `${name} is already the name of ${kind} ${id}`,
    {
      hint: `Give another name. A ${kind} that was set up anew replaces the old one: accept it with --replace.`,
      data: { name, bearer: id },
    },
  );
}

/** The member that bears the name isn't the one that the operator named: a decision about one member is none about another. */
export function notBearer(name: string, id: string, bearer: Member | undefined): SitecastError {
  const whose = bearer ? `the name of ${bearer.kind} ${bearer.id}` : "nobody's name now";
  return new SitecastError('conflict', 'SITECAST_NOT_NAMED_SO', `${name} isn't ${id}: it is ${whose}`, {
    hint: 'Nothing was done. Look again who bears the name.',
    data: { name, ...(bearer && { bearer: bearer.id }) },
  });
}

import { SitecastError } from '@sitecast/shared/errors';
import type { Member } from './member.ts';

/** @param name undefined: none */
export function withName({ name: _before, ...member }: Member, name: string | undefined): Member {
  return { ...member, ...(name !== undefined && { name }) };
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

/** Who is to be replaced isn't what an operator took it for: a decision about one is none about another. */
export function notBearer(name: string, id: string, bearer: Member | undefined): SitecastError {
  const whose = bearer ? `the name of ${bearer.kind} ${bearer.id}` : "nobody's name now";
  return new SitecastError('conflict', 'SITECAST_NOT_NAMED_SO', `${name} isn't ${id}: it is ${whose}`, {
    hint: 'Nothing was done. Look again who bears the name.',
    data: { name, ...(bearer && { bearer: bearer.id }) },
  });
}

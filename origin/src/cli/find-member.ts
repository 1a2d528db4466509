import { SitecastError } from '@sitecast/shared/errors';
import { idSchema, nameKey } from '@sitecast/shared/fleet';
import { fetchMembers, type Member } from './fleet-api.ts';
import type { OriginClient } from './origin-client.ts';

type Kind = Member['kind'];

/** A shorter part of an id could be of many: beside somebody's whole name it isn't meant. */
const MIN_PART_CHARS = 6;
const MAX_TOLD = 5;

/**
 * The id that a person meant by a name, an id, or an id's beginning or end. A name that another's id ends with is refused:
 * whoever chose it may have wanted to be taken for that one.
 * @throws SITECAST_ID_AMBIGUOUS, SITECAST_DEVICE_UNKNOWN, SITECAST_GATEWAY_UNKNOWN
 */
export async function findMember(origin: OriginClient, kind: Kind, text: string): Promise<string> {
  if (idSchema.safeParse(text).success) return text;
  const { members } = await fetchMembers(origin, kind, { idPart: text });
  const bearers = members.filter(({ name }) => name !== undefined && nameKey(name) === nameKey(text));
  const current = bearers.filter(({ revokedAt }) => revokedAt === undefined);
  const named = current.length > 0 ? current : bearers;
  const isNamed = (member: Member) => named.includes(member);
  const parts = members.filter(member => !isNamed(member) && hasPart(member, text));
  const found = named.length > 0 && text.length < MIN_PART_CHARS ? named : [...named, ...parts];
  return only(found, kind, text) ?? missing(kind, text, 'is enrolled', `${kind} list`);
}

/**
 * The id of one that waits. By its id alone: what it wants to be called, anybody can want.
 * @throws SITECAST_ID_AMBIGUOUS, SITECAST_DEVICE_UNKNOWN, SITECAST_GATEWAY_UNKNOWN
 */
export async function findPending(
  origin: OriginClient,
  kind: Kind,
  text: string,
): Promise<{ id: string; waiting: Member | undefined }> {
  const { members } = await fetchMembers(origin, kind, { state: 'pending' });
  if (idSchema.safeParse(text).success) return { id: text, waiting: members.find(({ id }) => id === text) };
  const id = only(
    members.filter(member => hasPart(member, text)),
    kind,
    text,
  );
  if (id !== undefined) return { id, waiting: members.find(member => member.id === id) };
  const wishing = members.filter(({ wish }) => wish !== undefined && nameKey(wish) === nameKey(text));
  const told = wishing
    .slice(0, MAX_TOLD)
    .map(member => `${text} is what ${describe(member)} wants to be called`);
  return missing(kind, text, 'waits', `${kind} list --pending`, told);
}

const hasPart = ({ id }: Member, text: string): boolean => id.startsWith(text) || id.endsWith(text);

function only(found: readonly Member[], kind: Kind, text: string): string | undefined {
  if (found.length <= 1) return found[0]?.id;
  const told = found.slice(0, MAX_TOLD).map(member => describe(member));
  const others = found.length > MAX_TOLD ? [`and ${found.length - MAX_TOLD} more`] : [];
  throw new SitecastError(
    'badInput',
    'SITECAST_ID_AMBIGUOUS',
    [`${text} could be any of ${found.length} ${kind}s:`, ...told, ...others].join('\n'),
    {
      hint: 'Give the whole id, or more of it.',
      data: { ids: found.slice(0, MAX_TOLD).map(({ id }) => id) },
    },
  );
}

function describe({ id, name, site, state }: Member): string {
  return `${id}${name === undefined ? '' : ` (${name})`}${site === undefined ? '' : ` at ${site}`}, ${state}`;
}

function missing(kind: Kind, text: string, what: string, list: string, told: readonly string[] = []): never {
  const message = [`no ${kind} ${what} whose name is ${text}, or whose id begins or ends with it`, ...told];
  throw new SitecastError(
    'notFound',
    kind === 'device' ? 'SITECAST_DEVICE_UNKNOWN' : 'SITECAST_GATEWAY_UNKNOWN',
    message.join('\n'),
    {
      hint: `\`sitecast ${list}\` shows them${told.length > 0 ? '; one that waits is named by its id' : ''}.`,
    },
  );
}

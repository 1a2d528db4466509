import type { OperatorAct } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { idSchema, nameKey } from '@sitecast/shared/fleet';
import { plural } from '@sitecast/shared/text';
import { fetchMembers, fetchRollouts, type Member, type Rollout } from './origin/fleet-api.ts';
import type { OriginClient } from './origin/client.ts';

type Kind = Member['kind'];

/** A shorter text fits many ids. If it is also the whole name of a member, the name is meant. */
const MIN_PART_CHARS = 6;
const MAX_TOLD = 5;

/**
 * Finds the id by a name, an id, or the beginning or end of an id. A name with which another member's id ends is refused: its bearer
 * may pose as that member.
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
 * Finds the id of a waiting device or gateway, by its id alone: any newcomer can ask for any name.
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

const MAX_SHOWN = 10;
const UNDER_WAY: ReadonlySet<string> = new Set(['active', 'paused', 'rollingBack']);

/** Finds a rollout by its id or the beginning of it; without a text the newest rollout. @throws SITECAST_ROLLOUT_UNKNOWN */
export async function findRollout(origin: OriginClient, text: string | undefined): Promise<Rollout> {
  const rollouts = await fetchRollouts(origin);
  const found = text === undefined ? rollouts.slice(0, 1) : rollouts.filter(({ id }) => id.startsWith(text));
  const [only] = found;
  if (only && found.length === 1) return only;
  const message =
    text === undefined
      ? 'there is no rollout yet'
      : found.length === 0
        ? `no rollout's id is ${text}, or begins with it`
        : `${plural(found.length, 'rollout')} begin with ${text}`;
  throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', message, {
    hint: '`sitecast rollout list` shows them.',
  });
}

/**
 * Finds a rollout by its id or the beginning of it; without a text the only one under way.
 * @param act what is to be done: one that has ended can be rolled back, if it is named
 * @throws SITECAST_ROLLOUT_UNKNOWN, SITECAST_ROLLOUT_AMBIGUOUS
 */
export async function findRolloutUnderWay(
  origin: OriginClient,
  text: string | undefined,
  act: OperatorAct,
): Promise<Rollout> {
  if (text !== undefined) return findRollout(origin, text);
  const all = await fetchRollouts(origin);
  const found = all.filter(({ state }) => UNDER_WAY.has(state));
  const [only] = found;
  if (only === undefined) {
    const [newest] = all;
    const back =
      act === 'rollback' && newest
        ? `One that has ended is named: \`sitecast rollout rollback ${newest.id}\` leads back from ${newest.product} ${newest.release.version}. `
        : '';
    throw new SitecastError('notFound', 'SITECAST_ROLLOUT_UNKNOWN', 'no rollout is under way', {
      hint: `${back}\`sitecast rollout list\` shows those that have ended.`,
    });
  }
  if (found.length === 1) return only;
  const named = found.map(
    ({ id, product, release, state }) => `${id} (${product} ${release.version}, ${state})`,
  );
  const shown = named.slice(0, MAX_SHOWN).join(', ');
  const message = `${found.length} rollouts are under way: ${shown}${named.length > MAX_SHOWN ? ', …' : ''}`;
  throw new SitecastError('badInput', 'SITECAST_ROLLOUT_AMBIGUOUS', message, {
    hint: 'Say which: its id, or the beginning of it.',
    data: { rollouts: found.map(({ id }) => id) },
  });
}

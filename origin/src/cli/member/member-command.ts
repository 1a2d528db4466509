import { plural } from '@sitecast/shared/text';
import { parseBoundedInteger, parseDurationMs, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import type { Command } from 'commander';
import {
  changedMemberSchema,
  collectTag,
  fetchMembers,
  type Member,
  type MemberFilter,
  memberDetailSchema,
  memberSchema,
  tagsOf,
} from '../origin/fleet-api.ts';
import { findMember } from '../find.ts';
import { asJson, EXAMPLE_NAMES, type JsonOptions, type Kind, noteNew, WHICH } from './options.ts';
import { calledText, idText, note, print, printJson, table } from '../output.ts';
import { describeMember, formatTags, namesText, takenText } from './view.ts';
import { connect } from '../settings.ts';

const MAX_LIMIT = 1_000_000;

interface ListOptions extends JsonOptions {
  product?: string;
  site?: string;
  tag?: string[];
  state?: string;
  version?: string;
  silentFor?: number;
  limit?: number;
  pending?: boolean;
}

export function memberListCommand(kind: Kind): SettingsCommand {
  const command = new SettingsCommand('list').description(`list the ${kind}s, and what they are doing`);
  if (kind === 'device') command.option('--product <product>', 'just those of this product');
  command
    .option('--site <site>', 'just those at this site')
    .option('--tag <name=value>', 'just those with this tag; may be repeated', collectTag)
    .option('--state <state>', 'just those in this state, such as completed, failed, enrolled, revoked')
    .option('--version <version>', 'just those that run this release, by their last report')
    .option('--silent-for <duration>', 'just those not heard of for so long, as in 24h', parseDurationMs)
    .option('--limit <n>', 'at most so many (default: all)', parseBoundedInteger(1, MAX_LIMIT))
    .option('--pending', 'those that wait to be accepted');
  return asJson(command)
    .addHelpText(
      'after',
      `
A ${kind} is silent when ${kind === 'device' ? 'all gateways of its site live and none hears it' : 'it has said nothing for two minutes, though it used to'}. Where no gateway tells
whom it hears (one of version 0.1 doesn't, and none for three minutes after its start) the last report counts.
Under ODD stands what was found in a ${kind}'s chain of reports: \`sitecast ${kind} show ID\` tells what it means.

Examples:
  sitecast ${kind} list --site north --silent-for 24h
  sitecast ${kind} list --pending`,
    )
    .action(async (options: ListOptions, command: Command) => {
      // The settings file has a `state` with another meaning: a folder.
      const state = command.getOptionValueSource('state') === 'cli' ? options.state : undefined;
      const {
        product,
        site,
        tag,
        version,
        silentFor: silentForMs,
        limit,
        pending: isPending,
        json,
      } = options;
      const filter = { product, site, tag, version, silentForMs, state: isPending ? 'pending' : state };
      const origin = await connect(options);
      const { members, pending, hasMore, unknown } = await fetchMembers(origin, kind, filter, limit);
      if (json) {
        printJson({
          [`${kind}s`]: members,
          pending,
          ...(hasMore && { hasMore }),
          ...(unknown.length > 0 && { unknown }),
        });
        return;
      }
      print(members.length === 0 ? nobodyText(kind, filter, unknown) : tableOf(kind, members, isPending));
      note(members.flatMap(wishText));
      if (isPending && members.length > 0)
        note(
          `compare its id with the one that the ${kind} itself shows, then let it in with: sitecast ${kind} accept ID`,
        );
      if (hasMore) note(`there are more than these ${members.length}`);
      if (pending > 0 && filter.state !== 'pending')
        note(`${plural(pending, kind)} waiting to be accepted: sitecast ${kind} list --pending`);
    });
}

/** What an operator must know before accepting a waiting member. */
const wishText = ({ wish: name, wishBearer: bearer }: Member): string[] =>
  name !== undefined && bearer ? [takenText({ name, bearer })] : [];

function tableOf(kind: Kind, members: readonly Member[], isPending = false): string[] {
  if (isPending) return pendingTable(members);
  return kind === 'device' ? deviceTable(members) : gatewayTable(members);
}

/** Distinguishes an empty fleet from a filter that matches nothing. */
function nobodyText(
  kind: Kind,
  { state, ...filter }: MemberFilter,
  unknown: Parameters<typeof namesText>[0],
): string {
  const isNarrow = Object.values(filter).some(value => value !== undefined);
  const why = unknown.length > 0 ? `: nobody in the fleet has ${namesText(unknown)}` : '';
  if (state === 'pending') return `no ${kind}${isNarrow ? ' of these' : ''} waits to be accepted`;
  if (isNarrow || state !== undefined) return `no ${kind} fits${why}`;
  return `no ${kind} is enrolled yet: \`sitecast token create --join --kind ${kind}\` lets the first in`;
}

/** Members with a name first, with numbers in numeric order: cam-2 before cam-10. */
const inOrder = (members: readonly Member[]): Member[] =>
  [...members].sort(
    (one, other) =>
      Number(one.name === undefined) - Number(other.name === undefined) ||
      (one.name ?? '').localeCompare(other.name ?? '', 'en', { numeric: true }),
  );

function deviceTable(members: readonly Member[]): string[] {
  const rows = inOrder(members).map(member => {
    const { product, hardware, site, tags, last } = member;
    const { release, isConfirmed } = last?.booted ?? {};
    const booted = `${release?.version ?? '-'}${isConfirmed === false ? ' (unconfirmed)' : ''}`;
    return [
      calledText(member),
      product ?? '-',
      hardware ?? '-',
      site ?? '-',
      stateText(member),
      booted,
      seenText(member),
      formatTags(tags),
      member.odd.join(', '),
    ];
  });
  return table(['DEVICE', 'PRODUCT', 'HARDWARE', 'SITE', 'STATE', 'RUNS', 'LAST HEARD', 'TAGS', 'ODD'], rows);
}

function gatewayTable(members: readonly Member[]): string[] {
  const rows = inOrder(members).map(member => [
    calledText(member),
    member.site ?? '-',
    stateText(member),
    seenText(member),
    metadataText(member),
    formatTags(member.tags),
    member.odd.join(', '),
  ]);
  return table(['GATEWAY', 'SITE', 'STATE', 'LAST HEARD', 'METADATA', 'TAGS', 'ODD'], rows);
}

/** `current`, or by how much it is behind; `-` where the gateway doesn't tell. */
const metadataText = ({ mirror, troubles }: Member): string =>
  [
    mirror ? (mirror.behindBy > 0 ? `${mirror.behindBy} behind` : 'current') : '-',
    ...(troubles ? ['in trouble'] : []),
  ].join(', ');

/** A waiting member is listed by its id, because any newcomer can ask for any name. */
function pendingTable(members: readonly Member[]): string[] {
  const rows = members.map(({ id, product, hardware, site, sites, wish, lastSeenAt }) => [
    id,
    wish ?? '',
    product ?? '-',
    hardware ?? '-',
    sites?.join(' or ') ?? site ?? '-',
    lastSeenAt ?? '-',
  ]);
  return table(['ID', 'WANTS TO BE', 'PRODUCT', 'HARDWARE', 'SITE', 'LAST ASKED'], rows);
}

const stateText = ({ state, quarantinedAt, presence }: Member): string =>
  [
    state,
    ...(presence === 'silent' ? ['silent'] : []),
    ...(quarantinedAt === undefined ? [] : ['quarantined']),
  ].join(', ');

/** When the member was last heard in any way. The text says so if reports are the only source. */
function seenText({ kind, lastSeenAt, last, presence }: Member): string {
  if (presence === 'heard') return 'now';
  const [time] = [lastSeenAt, last?.receivedAt]
    .filter(each => each !== undefined)
    .sort()
    .reverse();
  if (time === undefined) return '-';
  return kind === 'device' && presence === 'untold' && time === last?.receivedAt
    ? `${time} (its last report)`
    : time;
}

export function memberShowCommand(kind: Kind): SettingsCommand {
  return asJson(
    new SettingsCommand('show').description(`show all that is known of one ${kind}`).argument('<id>', WHICH),
  )
    .addHelpText('after', `\nExample:\n  sitecast ${kind} show ${EXAMPLE_NAMES[kind]}`)
    .action(async (text: string, options: JsonOptions) => {
      const origin = await connect(options);
      const id = await findMember(origin, kind, text);
      const member = await origin.json(`/api/v1/${kind}s/${id}`, memberDetailSchema);
      if (options.json) printJson(member);
      else print(describeMember(member));
    });
}

export function memberTagCommand(kind: Kind): SettingsCommand {
  return asJson(
    new SettingsCommand('tag')
      .description(`change the tags of a ${kind}, or the site that it belongs to`)
      .argument('<id>', WHICH)
      .argument('[tags...]', 'NAME=VALUE to set one, NAME- to remove it')
      .option('--site <site>', 'move it to this site')
      .option('--lift-quarantine', 'it was looked at: there is one machine with its key, and no more'),
  )
    .addHelpText(
      'after',
      `\nExamples:\n  sitecast ${kind} tag ${EXAMPLE_NAMES[kind]} ring=early floor=2\n  sitecast ${kind} tag 12D3KooWB1… ring-`,
    )
    .action(
      async (
        text: string,
        changes: string[],
        options: JsonOptions & { site?: string; liftQuarantine?: boolean },
        command: Command,
      ) => {
        const origin = await connect(options);
        const id = await findMember(origin, kind, text);
        const before = await origin.json(`/api/v1/${kind}s/${id}`, memberSchema);
        const site = command.getOptionValueSource('site') === 'cli' ? options.site : undefined;
        const json = {
          ...(changes.length > 0 && { tags: changedTags(before.tags, changes) }),
          ...(site !== undefined && { site }),
          ...(options.liftQuarantine && { quarantined: false }),
        };
        const path = `/api/v1/${kind}s/${id}`;
        const member = await origin.json(path, changedMemberSchema, { method: 'PATCH', json });
        if (options.json) printJson(member);
        else print(`${calledText(member)}  site ${member.site}  ${formatTags(member.tags)}`);
        noteNew(member);
      },
    );
}

function changedTags(before: Record<string, string>, changes: readonly string[]): Record<string, string> {
  const tags = new Map(Object.entries(before));
  for (const change of changes) {
    if (change.includes('='))
      for (const [name, value] of Object.entries(tagsOf([change]))) tags.set(name, value);
    else if (change.endsWith('-')) tags.delete(change.slice(0, -1));
    else
      throw new SitecastError(
        'badInput',
        'SITECAST_TAG_INVALID',
        `${change} is neither NAME=VALUE nor NAME-`,
      );
  }
  return Object.fromEntries(tags);
}

export function memberRevokeCommand(kind: Kind): SettingsCommand {
  return asJson(
    new SettingsCommand('revoke')
      .description(`shut a ${kind} out for good: its key may be in other hands`)
      .argument('<id>', WHICH),
  )
    .addHelpText(
      'after',
      `
The origin refuses it at once; gateways do when they see the next metadata. There is no way back: the machine
comes in again under a new identity, with an empty --data directory.

Example:
  sitecast ${kind} revoke ${EXAMPLE_NAMES[kind]}`,
    )
    .action(async (text: string, options: JsonOptions) => {
      const origin = await connect(options);
      const id = await findMember(origin, kind, text);
      const member = await origin.json(`/api/v1/${kind}s/${id}/revoke`, memberSchema, { method: 'POST' });
      if (options.json) printJson(member);
      else print(`${idText(member)} is revoked`);
    });
}

export function memberNameCommand(kind: Kind): SettingsCommand {
  return asJson(
    new SettingsCommand('name')
      .description(`give a ${kind} a name, or take it away: what people read instead of its id`)
      .argument('<id>', WHICH)
      .argument('[name]', 'letters, digits, and . _ - between them; at most 63')
      .option('--remove', 'it has no name any more'),
  )
    .addHelpText(
      'after',
      `
A name is one ${kind}'s at a time, whatever its case. One that is revoked leaves it free.

Example:
  sitecast ${kind} name 12D3KooWB1… ${EXAMPLE_NAMES[kind]}`,
    )
    .action(async (text: string, name: string | undefined, options: JsonOptions & { remove?: boolean }) => {
      if ((name === undefined) !== (options.remove === true))
        throw new SitecastError('badInput', 'SITECAST_OPTION_CONFLICT', 'either a name or --remove');
      const origin = await connect(options);
      const id = await findMember(origin, kind, text);
      const json = { name: name ?? null };
      const path = `/api/v1/${kind}s/${id}`;
      const member = await origin.json(path, changedMemberSchema, { method: 'PATCH', json });
      if (options.json) printJson(member);
      else print(member.name === undefined ? `${id} has no name` : `${id} is ${member.name}`);
    });
}

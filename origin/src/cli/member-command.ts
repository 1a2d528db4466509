import { parseBoundedInteger, parseDurationMs, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import type { Command } from 'commander';
import type { z } from 'zod';
import {
  changedMemberSchema,
  collectTag,
  fetchMembers,
  type Member,
  type MemberFilter,
  memberDetailSchema,
  memberSchema,
  resolveMember,
  tagsOf,
} from './fleet-api.ts';
import { describeMember, formatTags, namesText } from './member-view.ts';
import { note, plural, print, printJson, table } from './output.ts';
import { addOriginOptions, connect, type OriginOptions } from './settings.ts';

type Kind = Member['kind'];
interface JsonOptions extends OriginOptions {
  json?: boolean;
}
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

const MAX_LIMIT = 1_000_000;

const asJson = (command: SettingsCommand): SettingsCommand =>
  addOriginOptions(command).option('--json', 'print one JSON object');

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
      // The settings file has a `state`, too: a folder.
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
      if (members.length === 0) print(nobodyText(kind, filter, unknown));
      else print(kind === 'device' ? deviceTable(members) : gatewayTable(members));
      if (hasMore) note(`there are more than these ${members.length}`);
      if (pending > 0 && filter.state !== 'pending')
        note(`${plural(pending, kind)} waiting to be accepted: sitecast ${kind} list --pending`);
    });
}

/** Nobody at all is something else than nobody of those that were asked for. */
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

function deviceTable(members: readonly Member[]): string[] {
  const rows = members.map(member => {
    const { id, product, hardware, site, tags, last } = member;
    const booted = last?.booted?.release?.version ?? '-';
    return [
      id,
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
  return table(['ID', 'PRODUCT', 'HARDWARE', 'SITE', 'STATE', 'RUNS', 'LAST HEARD', 'TAGS', 'ODD'], rows);
}

function gatewayTable(members: readonly Member[]): string[] {
  const rows = members.map(member => [
    member.id,
    member.site ?? '-',
    stateText(member),
    seenText(member),
    formatTags(member.tags),
    member.odd.join(', '),
  ]);
  return table(['ID', 'SITE', 'STATE', 'LAST HEARD', 'TAGS', 'ODD'], rows);
}

const stateText = ({ state, quarantinedAt, presence }: Member): string =>
  [
    state,
    ...(presence === 'silent' ? ['silent'] : []),
    ...(quarantinedAt === undefined ? [] : ['quarantined']),
  ].join(', ');

/** The last that came of it, whichever way; it's said where nothing but reports could tell. */
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
    new SettingsCommand('show')
      .description(`show all that is known of one ${kind}`)
      .argument('<id>', 'its id, or the beginning or end of it'),
  )
    .addHelpText('after', `\nExample:\n  sitecast ${kind} show 12D3KooWB1…`)
    .action(async (text: string, options: JsonOptions) => {
      const origin = await connect(options);
      const id = await resolveMember(origin, kind, text);
      const member = await origin.json(`/api/v1/${kind}s/${id}`, memberDetailSchema);
      if (options.json) printJson(member);
      else print(describeMember(member));
    });
}

export function memberAcceptCommand(kind: Kind): SettingsCommand {
  return asJson(
    new SettingsCommand('accept')
      .description(`let a ${kind} in that came without a join token`)
      .argument('<id>', 'its id, or the beginning or end of it')
      .option(
        '--site <site>',
        kind === 'device'
          ? 'where it is (default: the site of the gateway it came through)'
          : 'the site that it serves (default: the one it asked for)',
      ),
  )
    .addHelpText(
      'after',
      `
Compare the id with the one that the ${kind} itself shows: whoever asks can call itself anything but that.

Example:
  sitecast ${kind} accept 12D3KooWB1… --site north`,
    )
    .action(async (text: string, options: JsonOptions & { site?: string }) => {
      const origin = await connect(options);
      const id = await resolveMember(origin, kind, text, { isPending: true });
      const { site } = options;
      const json = site === undefined ? {} : { site };
      const member = await origin.json(`/api/v1/${kind}s/${id}/accept`, changedMemberSchema, {
        method: 'POST',
        json,
      });
      if (options.json) printJson(member);
      else print(`${id} is in, at the site ${member.site}`);
      noteNew(member);
    });
}

export function memberTagCommand(kind: Kind): SettingsCommand {
  return asJson(
    new SettingsCommand('tag')
      .description(`change the tags of a ${kind}, or the site that it belongs to`)
      .argument('<id>', 'its id, or the beginning or end of it')
      .argument('[tags...]', 'NAME=VALUE to set one, NAME- to remove it')
      .option('--site <site>', 'move it to this site')
      .option('--lift-quarantine', 'it was looked at: there is one machine with its key, and no more'),
  )
    .addHelpText(
      'after',
      `\nExamples:\n  sitecast ${kind} tag 12D3KooWB1… ring=early floor=2\n  sitecast ${kind} tag 12D3KooWB1… ring-`,
    )
    .action(
      async (
        text: string,
        changes: string[],
        options: JsonOptions & { site?: string; liftQuarantine?: boolean },
        command: Command,
      ) => {
        const origin = await connect(options);
        const id = await resolveMember(origin, kind, text);
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
        else print(`${id}  site ${member.site}  ${formatTags(member.tags)}`);
        noteNew(member);
      },
    );
}

/** A site comes to be by being named: a slip would, too. */
function noteNew({ unknown }: z.infer<typeof changedMemberSchema>): void {
  if (unknown.length > 0) note(`new in the fleet: ${namesText(unknown)}`);
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
      .argument('<id>', 'its id, or the beginning or end of it'),
  )
    .addHelpText(
      'after',
      `
The origin refuses it at once; gateways do when they see the next metadata. There is no way back: the machine
comes in again under a new identity, with an empty --data directory.

Example:
  sitecast ${kind} revoke 12D3KooWB1…`,
    )
    .action(async (text: string, options: JsonOptions) => {
      const origin = await connect(options);
      const id = await resolveMember(origin, kind, text);
      const member = await origin.json(`/api/v1/${kind}s/${id}/revoke`, memberSchema, { method: 'POST' });
      if (options.json) printJson(member);
      else print(`${id} is revoked`);
    });
}

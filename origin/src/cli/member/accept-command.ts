import { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { nameKey } from '@sitecast/shared/fleet';
import type { Command } from 'commander';
import { idText, note, print, printJson } from '../output.ts';
import { confirm } from '../terminal.ts';
import { findPending } from '../find.ts';
import { changedMemberSchema, fetchMembers, type Member } from '../origin/fleet-api.ts';
import { asJson, EXAMPLE_NAMES, type JsonOptions, type Kind, noteNew } from './options.ts';
import { takenText } from './view.ts';
import type { OriginClient } from '../origin/client.ts';
import { connect } from '../settings.ts';

type Bearer = NonNullable<Member['wishBearer']>;

interface AcceptOptions extends JsonOptions {
  site?: string;
  name?: string;
  replace?: boolean;
  yes?: boolean;
}

/** The member that bears the name, and whether its machine seems to be at work. */
type KnownBearer = Bearer & { presence?: Member['presence'] };

/** A member heard more recently than this is probably still at work, so the command asks before it is replaced. */
const LIVES_MS = 5 * 60_000;

export function memberAcceptCommand(kind: Kind): SettingsCommand {
  return asJson(
    new SettingsCommand('accept')
      .description(`let a ${kind} in that waits: it came without a join token, or wants a name that is taken`)
      .argument('<id>', 'its id, or the beginning or end of it')
      .option(
        '--site <site>',
        kind === 'device'
          ? 'where it is (default: the site of the gateway it came through)'
          : 'the site that it serves (default: the one it asked for)',
      )
      .option('--name <name>', 'what it is called (default: what it wants to be called)')
      .option(
        '--replace',
        `the ${kind} that has this name is revoked; its site and tags go over, but for a site that is given`,
      )
      .option('--yes', `do not ask, though the ${kind} that --replace revokes is being heard`),
  )
    .addHelpText(
      'after',
      `
Compare the id with the one that the ${kind} itself shows: whoever asks can call itself anything but that.
With --replace, of a ${kind} that is being heard, or was within 5 minutes, it asks at a terminal, and else does nothing without --yes.

Examples:
  sitecast ${kind} accept 12D3KooWB1… --site north --name ${EXAMPLE_NAMES[kind]}
  sitecast ${kind} accept 12D3KooWB1… --replace`,
    )
    .action(async (text: string, options: AcceptOptions, command: Command) => {
      const { site, replace = false, yes = false, json: isJson } = options;
      const origin = await connect(options);
      const { id, waiting } = await findPending(origin, kind, text);
      // A name from the environment or a settings file is meant for a token or a machine.
      const given = command.getOptionValueSource('name') === 'cli' ? options.name : undefined;
      const name = given ?? waiting?.wish;
      const bearer = name === undefined ? undefined : await bearerOf(origin, kind, name, waiting);
      await demandDecision(kind, { id, name, bearer }, { isReplacing: replace, isYes: yes });
      const json = {
        ...(site !== undefined && { site }),
        ...(name !== undefined && { name }),
        ...(bearer && { replace: bearer.id }),
      };
      const path = `/api/v1/${kind}s/${id}/accept`;
      const member = await origin.json(path, changedMemberSchema, { method: 'POST', json });
      if (isJson) printJson(member);
      else print(`${idText(member)} is in, at the site ${member.site}`);
      if (bearer) note([`${bearer.id} is revoked`, ...elsewhere(member, waiting)]);
      noteNew(member);
    });
}

/** The member was accepted for a site at which it isn't. The gateways of its present site refuse what it sends. */
function elsewhere({ kind, id, site }: Member, waiting: Member | undefined): string[] {
  const seenAt = waiting?.site;
  if (seenAt === undefined || seenAt === site) return [];
  return [`it was seen at ${seenAt}: sitecast ${kind} tag ${id} --site ${seenAt} moves it there`];
}

/** The other member that bears this name. */
async function bearerOf(
  origin: OriginClient,
  kind: Kind,
  name: string,
  waiting: Member | undefined,
): Promise<KnownBearer | undefined> {
  if (waiting?.wish === name) {
    const { wishBearer: wished } = waiting;
    if (wished?.kind !== kind) return wished;
    const known = await fetchMembers(origin, kind, { idPart: wished.id });
    return { ...wished, presence: known.members.find(({ id }) => id === wished.id)?.presence };
  }
  const { members } = await fetchMembers(origin, kind, { idPart: name });
  const found = members.find(
    member =>
      member.name !== undefined && nameKey(member.name) === nameKey(name) && member.revokedAt === undefined,
  );
  if (!found) return undefined;
  const { id, lastSeenAt, last, enrolledAt = '' } = found;
  return {
    id,
    kind,
    presence: found.presence,
    lastHeardAt: [enrolledAt, lastSeenAt ?? '', last?.receivedAt ?? ''].sort().at(-1) ?? '',
  };
}

/**
 * Never revokes another member without `--replace`. A member that seems to be at work needs `--yes` or consent at the terminal as well.
 * @throws SITECAST_NAME_TAKEN, SITECAST_BEARER_HEARD, SITECAST_NOT_CONFIRMED, SITECAST_NOT_NAMED_SO
 */
async function demandDecision(
  kind: Kind,
  { id, name, bearer }: { id: string; name: string | undefined; bearer: KnownBearer | undefined },
  { isReplacing, isYes }: { isReplacing: boolean; isYes: boolean },
): Promise<void> {
  if (name === undefined || !bearer) {
    if (isReplacing) throw nobodyToReplace(kind, id, name);
    return;
  }
  const life = lifeOf(bearer, Date.now());
  const text = `${takenText({ name, bearer })}${life === undefined ? '' : `; ${life}`}`;
  const canReplace = bearer.kind === kind;
  const canAsk = process.stdin.isTTY && process.stderr.isTTY;
  if (isReplacing && canReplace) {
    const isMeant = isYes || life === undefined;
    if (isMeant || canAsk) return await confirm(text, isMeant);
    throw new SitecastError('conflict', 'SITECAST_BEARER_HEARD', text, {
      hint: '--replace --yes, if it is the same machine set up anew; else another --name.',
      data: { name, bearer: bearer.id },
    });
  }
  if (canReplace && canAsk) return await confirm(text, false);
  throw new SitecastError('conflict', 'SITECAST_NAME_TAKEN', text, {
    hint: `${canReplace ? '--replace, if it is the same machine set up anew; else another' : 'Give another'} --name.`,
    data: { name, bearer: bearer.id },
  });
}

function nobodyToReplace(kind: Kind, id: string, name: string | undefined): SitecastError {
  const what = name === undefined ? `${id} wants no name, and none is given` : `no ${kind} is called ${name}`;
  return new SitecastError('conflict', 'SITECAST_NOT_NAMED_SO', `there is nobody to replace: ${what}`);
}

/** Why a machine seems to be at work: its presence, according to the origin, or the time when it was last heard. */
export function lifeOf({ presence, lastHeardAt }: KnownBearer, nowMs: number): string | undefined {
  if (presence === 'heard') return 'it is being heard now';
  // This clock may differ from the origin's, so a time in the future counts as recent.
  const isLate = nowMs - Date.parse(lastHeardAt) >= LIVES_MS;
  return isLate || lastHeardAt === '' ? undefined : 'it was heard within the last 5 minutes';
}

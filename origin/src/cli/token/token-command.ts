import {
  createdTokenSchema,
  MAX_JOIN_TOKEN_USES,
  MEMBER_KINDS,
  TOKEN_ROLES,
  tokenSchema,
} from '@sitecast/shared/api';
import { parseBoundedInteger, parseDurationMs, SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { type Command, Option } from 'commander';
import { z } from 'zod';
import { createJoinToken, type JoinTokenOptions, listJoinTokens, revokeJoinToken } from './join-token.ts';
import { createNewFile, requireAbsent } from '../new-file.ts';
import type { OriginClient } from '../origin/client.ts';
import { note, print, printJson, table } from '../output.ts';
import { addOriginOptions, connect, type OriginOptions } from '../settings.ts';

const listSchema = z.object({ tokens: z.array(tokenSchema.omit({ createdAt: true })) });

/** Options that only API tokens have, and options that only join tokens have. */
const API_ONLY = ['role'];
const JOIN_ONLY = ['kind', 'site', 'product', 'hardware', 'uses', 'originUrl'];

interface CreateOptions extends OriginOptions, JoinTokenOptions {
  join?: boolean;
  name?: string;
  role: (typeof TOKEN_ROLES)[number];
}

export function tokenCreateCommand(): SettingsCommand {
  const command = new SettingsCommand('create')
    .description(
      'make an API token for a person or script, or with --join a token that lets devices or gateways in',
    )
    .option('--name <name>', 'whose API token it is; with --join: what the one that it lets in is called')
    .addOption(
      new Option('--role <role>', 'viewer: look; operator: publish and roll out; admin: tokens and keys too')
        .choices(TOKEN_ROLES)
        .default('viewer'),
    );
  addJoinOptions(command);
  command
    .option(
      '--expires <duration>',
      'how long it holds, such as 90d (default: until revoked; with --join 30d)',
      parseDurationMs,
    )
    .option('--out <file>', 'write it to this file (0600) instead of showing it')
    .option('--json', 'print one JSON object');
  return addOriginOptions(command)
    .addHelpText(
      'after',
      `
A token is shown once. The origin keeps a hash of an API token, and the public half of a join token.

Examples:
  sitecast token create --name ci --role operator --expires 90d --out ci.token
  sitecast token create --join --kind gateway --site north --out north.token
  sitecast token create --join --kind device --product camera --uses 20 --expires 7d
  sitecast token create --join --kind device --product camera --name cam-0042`,
    )
    .action(async (options: CreateOptions, command: Command) => {
      const foreign = (options.join ? API_ONLY : JOIN_ONLY).find(
        name => command.getOptionValueSource(name) === 'cli',
      );
      if (foreign !== undefined) {
        throw new SitecastError(
          'badInput',
          'SITECAST_OPTION_CONFLICT',
          `--${foreign === 'originUrl' ? 'origin-url' : foreign} ${options.join ? "doesn't go with" : 'needs'} --join`,
        );
      }
      if (options.out !== undefined) await requireAbsent(options.out);
      const origin = await connect(options);
      // A name in a settings file or the environment is a person's, not a device's.
      const isNamed = command.getOptionValueSource('name') === 'cli';
      if (options.join)
        await createJoinToken(origin, { ...options, name: isNamed ? options.name : undefined });
      else await createApiToken(origin, options);
    });
}

function addJoinOptions(command: SettingsCommand): void {
  command
    .option('--join', 'make a join token instead')
    .addOption(new Option('--kind <kind>', 'with --join: what it lets in').choices(MEMBER_KINDS))
    .option(
      '--site <site>',
      "with --join: the site of those it lets in (default for devices: their gateway's)",
    )
    .option('--product <product>', 'with --join: devices of this product alone')
    .option('--hardware <hardware>', 'with --join: this hardware alone')
    .option(
      '--uses <n>',
      'with --join: how many it lets in (default: 1)',
      parseBoundedInteger(1, MAX_JOIN_TOKEN_USES),
    )
    .option('--origin-url <url>', 'with --join: where they find the origin (default: --origin)');
}

async function createApiToken(
  origin: OriginClient,
  { name, role, expires, out, json }: CreateOptions,
): Promise<void> {
  if (name === undefined) {
    throw new SitecastError('badInput', 'SITECAST_OPTION_MISSING', 'an API token needs --name', {
      hint: 'For a token that lets devices or gateways in: --join.',
    });
  }
  const expiresAt = expires === undefined ? undefined : new Date(Date.now() + expires).toISOString();
  const request = { name, role, ...(expiresAt !== undefined && { expiresAt }) };
  const created = await origin.json('/api/v1/tokens', createdTokenSchema, { method: 'POST', json: request });
  if (out !== undefined) {
    await createNewFile(out, `${created.token}\n`, 0o600).catch(async (error: unknown) => {
      // A token that couldn't be written is lost, so it is revoked.
      await origin.bytes(`/api/v1/tokens/${created.id}`, { method: 'DELETE' });
      throw error;
    });
  }
  if (json)
    printJson({
      ...request,
      id: created.id,
      ...(out === undefined ? { token: created.token } : { file: out }),
    });
  else print(out ?? created.token);
  if (!json)
    note(`token ${created.id} of ${name}, ${role}${expiresAt === undefined ? '' : `, until ${expiresAt}`}`);
}

export function tokenListCommand(): SettingsCommand {
  return addOriginOptions(new SettingsCommand('list').description('list the API tokens (not their secrets)'))
    .option('--join', 'the join tokens instead')
    .option('--json', 'print one JSON object')
    .action(async (options: OriginOptions & { join?: boolean; json?: boolean }) => {
      const origin = await connect(options);
      if (options.join) {
        await listJoinTokens(origin, options.json);
        return;
      }
      const { tokens } = await origin.json('/api/v1/tokens', listSchema);
      if (options.json) printJson({ tokens });
      else
        print(
          table(
            ['ID', 'NAME', 'ROLE', 'EXPIRES'],
            tokens.map(token => [token.id, token.name, token.role, token.expiresAt ?? '-']),
          ),
        );
    });
}

export function tokenRevokeCommand(): SettingsCommand {
  return addOriginOptions(
    new SettingsCommand('revoke').description('make a token worthless, at once').argument('<id>'),
  )
    .option('--join', 'a join token; whoever it let in stays')
    .option('--json', 'print one JSON object')
    .action(async (text: string, options: OriginOptions & { join?: boolean; json?: boolean }) => {
      const origin = await connect(options);
      const id = options.join ? await revokeJoinToken(origin, text) : text;
      if (!options.join) await origin.bytes(`/api/v1/tokens/${encodeURIComponent(id)}`, { method: 'DELETE' });
      if (options.json) printJson({ id, revoked: true });
      else print(`token ${id} is revoked`);
    });
}

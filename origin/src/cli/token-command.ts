import { parseDurationMs, SettingsCommand } from '@sitecast/shared/command';
import { createFileDurably } from '@sitecast/shared/durable';
import { Option } from 'commander';
import { z } from 'zod';
import { note, print, printJson, table } from './output.ts';
import { addOriginOptions, connect, type OriginOptions } from './settings.ts';

const ROLES = ['viewer', 'operator', 'admin'] as const;

const tokenSchema = z.object({
  id: z.string(),
  name: z.string(),
  role: z.enum(ROLES),
  expiresAt: z.string().optional(),
});
const createdSchema = z.object({ id: z.string(), token: z.string() });
const listSchema = z.object({ tokens: z.array(tokenSchema) });

interface CreateOptions extends OriginOptions {
  name: string;
  role: (typeof ROLES)[number];
  expires?: number;
  out?: string;
  json?: boolean;
}

export function tokenCreateCommand(): SettingsCommand {
  const command = new SettingsCommand('create')
    .description('make an API token; it is shown once, the origin keeps a hash of it')
    .requiredOption('--name <name>', 'whose it is')
    .addOption(
      new Option('--role <role>', 'viewer: look; operator: publish and roll out; admin: tokens and keys too')
        .choices(ROLES)
        .default('viewer'),
    )
    .option(
      '--expires <duration>',
      'how long it holds, such as 90d (default: until revoked)',
      parseDurationMs,
    )
    .option('--out <file>', 'write it to this file (0600) instead of showing it')
    .option('--json', 'print one JSON object');
  return addOriginOptions(command)
    .addHelpText(
      'after',
      '\nExample:\n  sitecast token create --name ci --role operator --expires 90d --out ci.token',
    )
    .action(async ({ name, role, expires, out, json, ...connection }: CreateOptions) => {
      const origin = await connect(connection);
      const expiresAt = expires === undefined ? undefined : new Date(Date.now() + expires).toISOString();
      const request = { name, role, ...(expiresAt !== undefined && { expiresAt }) };
      const created = await origin.json('/api/v1/tokens', createdSchema, { method: 'POST', json: request });
      if (out !== undefined) {
        await createFileDurably(out, `${created.token}\n`, 0o600).catch(async (error: unknown) => {
          // Nobody knows a token that couldn't be written: it shouldn't be worth anything either.
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
        note(
          `token ${created.id} of ${name}, ${role}${expiresAt === undefined ? '' : `, until ${expiresAt}`}`,
        );
    });
}

export function tokenListCommand(): SettingsCommand {
  return addOriginOptions(new SettingsCommand('list').description('list the API tokens (not their secrets)'))
    .option('--json', 'print one JSON object')
    .action(async (options: OriginOptions & { json?: boolean }) => {
      const { tokens } = await (await connect(options)).json('/api/v1/tokens', listSchema);
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
    new SettingsCommand('revoke').description('make an API token worthless, at once').argument('<id>'),
  )
    .option('--json', 'print one JSON object')
    .action(async (id: string, options: OriginOptions & { json?: boolean }) => {
      await (await connect(options)).bytes(`/api/v1/tokens/${encodeURIComponent(id)}`, { method: 'DELETE' });
      if (options.json) printJson({ id, revoked: true });
      else print(`token ${id} is revoked`);
    });
}

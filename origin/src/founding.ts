import { join } from 'node:path';
import { Endings } from '@sitecast/shared/command';
import { writeFileDurably } from '@sitecast/shared/durable';
import { errorFields, type Log } from './log.ts';
import type { Tokens } from './tokens/tokens.ts';

/** @returns where the first admin's token lies, if one was made now */
export async function keepFirstAdmin(tokens: Tokens, directory: string): Promise<string | undefined> {
  const path = join(directory, 'admin.token');
  const made = await tokens.createAdminIfNone(token => writeFileDurably(path, `${token}\n`, 0o600));
  return made && path;
}

/** Endings of an origin's parts; one that goes wrong is logged, and keeps no other from ending. */
export function loggingEndings(log: Log): Endings {
  return new Endings((what, error) => log.error({ ...errorFields(error), what }, 'stopping went wrong'));
}

import { CA_OPTION, type SettingsCommand } from '@sitecast/shared/command';
import { readSecretBounded } from '@sitecast/shared/durable';
import { SitecastError } from '@sitecast/shared/errors';
import { Connections } from '@sitecast/shared/outbound';
import { OriginClient } from './origin/client.ts';

const MAX_TOKEN_BYTES = 4096;

export interface OriginOptions {
  origin?: string;
  token?: string;
  tokenFile?: string;
  ca?: string;
}

export interface TrustOptions {
  root: string;
  state: string;
}

export interface KeyOptions {
  keys: string;
  passphraseFile?: string;
}

export function addOriginOptions(command: SettingsCommand): SettingsCommand {
  return command
    .option('--origin <url>', "the origin's address")
    .option(
      '--token <token>',
      'an API token; better by environment or --token-file, for command lines can be read by others',
    )
    .option('--token-file <file>', 'a file that holds the API token; or a pipe, waited for a minute')
    .option(...CA_OPTION);
}

export function addTrustOptions(command: SettingsCommand): SettingsCommand {
  return command
    .option('--root <file>', 'the root that trust starts from', 'root.json')
    .option('--state <dir>', 'where the metadata verified so far is kept', '.sitecast');
}

export function addKeyOptions(command: SettingsCommand): SettingsCommand {
  return command
    .option('--keys <dir>', 'the folder with key files', 'keys')
    .option(
      '--passphrase-file <file>',
      'read the passphrase of key files from this file instead of asking (or set SITECAST_PASSPHRASE)',
    );
}

/** @throws SITECAST_ORIGIN_MISSING where no origin was named; SITECAST_CA_INVALID; ENOENT for a file that isn't there */
export async function connect(options: OriginOptions): Promise<OriginClient> {
  if (options.origin === undefined) {
    throw new SitecastError('badInput', 'SITECAST_ORIGIN_MISSING', 'no origin was named', {
      hint: 'give --origin URL, set SITECAST_ORIGIN, or run this where `sitecast init` wrote sitecast.yaml',
    });
  }
  const connections = await Connections.open({ ca: options.ca, variables: process.env });
  return new OriginClient(options.origin, await readToken(options), connections);
}

async function readToken({ token, tokenFile }: OriginOptions): Promise<string | undefined> {
  if (token !== undefined) return token;
  return tokenFile === undefined
    ? undefined
    : (await readSecretBounded(tokenFile, MAX_TOKEN_BYTES)).toString('utf8').trim();
}

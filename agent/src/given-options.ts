import { createHash } from 'node:crypto';
import type { SettingsCommand } from '@sitecast/shared/command';
import { SitecastError } from '@sitecast/shared/errors';
import { z } from 'zod';

// A daemon goes by the settings that it was started with. A command beside it that was given another one must not seem to have obeyed it.

/** By the option's flag, such as `--max-bytes`: a hash of its value, so that no token is told. */
export type OptionHashes = Record<string, string>;

/** What a daemon answers to the command `settings`. */
export const daemonSettingsSchema = z.looseObject({ options: z.record(z.string(), z.string()) });

/** They say which daemon is meant, or concern the command itself. */
const OF_THE_COMMAND: ReadonlySet<string> = new Set([
  '--data',
  '--json',
  '--config',
  '--log-level',
  '--log-format',
]);
const LISTS: ReadonlySet<string> = new Set(['--gateway', '--health-check']);
/** What is meant where nothing is given. */
const IMPLIED: Readonly<Record<string, string>> = { '--boot': 'file' };
const HASH_CHARS = 32;

/** All options of a daemon, defaults among them. */
export function optionHashes(command: SettingsCommand): OptionHashes {
  return hashesOf(command, () => true);
}

/** Those that were typed for a command. What a configuration file or the environment says is meant for all commands. */
export function givenOptions(command: SettingsCommand): OptionHashes {
  return hashesOf(command, name => command.getOptionValueSource(name) === 'cli');
}

function hashesOf(command: SettingsCommand, isMeant: (name: string) => boolean): OptionHashes {
  const hashes: OptionHashes = {};
  for (const option of command.options) {
    const flag = option.long ?? '';
    const name = option.attributeName();
    if (OF_THE_COMMAND.has(flag) || !isMeant(name)) continue;
    hashes[flag] = hashOf(flag, command.getOptionValue(name) ?? IMPLIED[flag]);
  }
  return hashes;
}

/** A list may come as one text from the environment. */
function hashOf(flag: string, value: unknown): string {
  const text = JSON.stringify(LISTS.has(flag) ? String(value).split(/[\s,]+/) : (value ?? null));
  return createHash('sha256').update(text).digest('hex').slice(0, HASH_CHARS);
}

/**
 * @param ofDaemon undefined: a daemon of an earlier version, which doesn't tell
 * @throws SITECAST_DAEMON_SETTINGS where an option was given that the daemon doesn't go by
 */
export function demandSame(given: OptionHashes, ofDaemon: OptionHashes | undefined, data: string): void {
  const others = Object.keys(given).filter(flag => given[flag] !== ofDaemon?.[flag]);
  if (others.length === 0) return;
  const said = ofDaemon
    ? `was started with ${others.length === 1 ? 'another value' : 'other values'} of ${others.join(', ')}`
    : `is of an earlier version, and doesn't tell whether it goes by ${others.join(', ')}`;
  throw new SitecastError(
    'conflict',
    'SITECAST_DAEMON_SETTINGS',
    `the agent that runs on ${data} ${said}: nothing was done`,
    {
      hint: 'this command only asks that agent, which goes by its own settings: start it anew with other ones, or leave them out here',
      data: { options: others },
    },
  );
}

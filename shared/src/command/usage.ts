import { resolve, sep } from 'node:path';
import { type Command, CommanderError } from 'commander';
import { type ErrorCode, isSystemError, SitecastError } from '../errors.ts';

/** Commander's codes for wrong usage, and ours. */
const USAGE_CODES: ReadonlyMap<string, ErrorCode> = new Map([
  ['commander.help', 'SITECAST_USAGE_COMMAND_MISSING'],
  ['commander.unknownCommand', 'SITECAST_USAGE_COMMAND_UNKNOWN'],
  ['commander.unknownOption', 'SITECAST_USAGE_OPTION_UNKNOWN'],
  ['commander.missingMandatoryOptionValue', 'SITECAST_USAGE_OPTION_MISSING'],
  ['commander.optionMissingArgument', 'SITECAST_USAGE_VALUE_MISSING'],
  ['commander.invalidArgument', 'SITECAST_USAGE_VALUE_INVALID'],
  ['commander.missingArgument', 'SITECAST_USAGE_ARGUMENT_MISSING'],
  ['commander.excessArguments', 'SITECAST_USAGE_ARGUMENT_EXCESS'],
]);

/** Whether help or a version was asked for. It has been printed then. */
export const isAnswered = (error: unknown): boolean =>
  error instanceof CommanderError && error.exitCode === 0;

/** @param command whose usage was wrong, as it is typed */
export function usageError({ code, message }: CommanderError, command: string): SitecastError {
  const isBare = code === 'commander.help';
  // Commander puts its suggestion on a line of its own.
  const said = isBare ? `${command} takes a command` : message.replace(/^error: /, '').replaceAll('\n', ' ');
  return new SitecastError('badInput', USAGE_CODES.get(code) ?? 'SITECAST_USAGE', said, {
    hint: `${command} --help shows what it takes`,
    data: { command },
  });
}

/** Codes of the system for a named file or folder that can't be read or created. */
const INPUT_CODES = [
  'ENOENT',
  'ENOTDIR',
  'EISDIR',
  'EACCES',
  'EPERM',
  'ELOOP',
  'ENAMETOOLONG',
  'ENXIO',
  'EEXIST',
];

/**
 * Whether the system refused a path that the user named. That is wrong input, not a failure of the command.
 * @param files that the command looks for although no one named them
 */
export function isWrongInput(error: unknown, action: Command | undefined, files: readonly string[]): boolean {
  if (!isSystemError(error, ...INPUT_CODES) || error.path === undefined) return false;
  const path = resolve(error.path);
  const named = [...files, ...(action ? [...action.args, ...Object.values(action.opts())] : [])].flat();
  return named.some(name => typeof name === 'string' && name !== '' && isAbout(path, resolve(name)));
}

/** Whether the path is the named one, lies in it, or is the partial file beside it. */
const isAbout = (path: string, named: string): boolean =>
  path === named ||
  path.startsWith(named.endsWith(sep) ? named : named + sep) ||
  resolve(path, '..') === resolve(named, '..');

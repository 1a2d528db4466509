import { type Command, InvalidArgumentError, Option } from 'commander';
import type { LogLevel } from './line.ts';

const LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
/** Further names that the origin of version 0.1.0 accepted. */
const FORMER_LEVELS: ReadonlyMap<string, Level> = new Map([
  ['trace', 'debug'],
  ['fatal', 'silent'],
]);
const FORMATS = ['text', 'json'] as const;

type Level = LogLevel | 'silent';
export type LogFormat = (typeof FORMATS)[number];

/** The settings of a daemon's log. */
export interface LogSettings {
  level: Level;
  /** undefined: text for a terminal, otherwise JSON */
  format?: LogFormat | undefined;
}

/**
 * Adds `--log-level` and `--log-format`, which are the same for all daemons.
 * @returns the command
 */
export function addLogOptions<T extends Command>(command: T): T {
  return command
    .addOption(
      new Option('--log-level <level>', `what is logged: ${LEVELS.join(', ')}`)
        .argParser(parseLevel)
        .default('info'),
    )
    .addOption(
      new Option(
        '--log-format <format>',
        'of the lines on stderr (default: text on a terminal, else json)',
      ).choices(FORMATS),
    );
}

/** The options as Commander returns them. */
export interface LogOptions {
  logLevel?: unknown;
  logFormat?: unknown;
}

export function logSettingsOf({ logLevel, logFormat }: LogOptions): LogSettings {
  return {
    level: LEVELS.find(level => level === logLevel) ?? 'info',
    format: FORMATS.find(format => format === logFormat),
  };
}

function parseLevel(text: string): Level {
  const level = LEVELS.find(name => name === text) ?? FORMER_LEVELS.get(text);
  if (level === undefined) throw new InvalidArgumentError(`Allowed choices are ${LEVELS.join(', ')}.`);
  return level;
}

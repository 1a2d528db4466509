import { hostname } from 'node:os';
import { isatty } from 'node:tty';
import { pino } from 'pino';
import { errorFields } from './error-fields.ts';
import { isStderrJournal } from './journal.ts';
import { jsonLine, type LogLevel, textLine } from './line.ts';
import type { LogFormat, LogSettings } from './options.ts';
import { Repeats } from './repeats.ts';

/** Names that the log itself sets. A field that has one of them is renamed. */
const RESERVED = ['level', 'time', 'role', 'id', 'ownName', 'msg', 'again'] as const;
const IS_RESERVED: ReadonlySet<string> = new Set(RESERVED);

/** An error goes into `err`. What it concerns goes into a field of its own, such as `device`, `gateway` or `chunk`. */
export type LogFields = { readonly [name: string]: unknown } & {
  [name in (typeof RESERVED)[number]]?: never;
};

/**
 * A log takes structured fields first, then one plain sentence. It never gets a token or a private key.
 * A repeated warning or error is logged now and then, with `again`. So is any line with `waitMs`, the pause before the next attempt.
 */
export interface Log {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

/** The daemon that logs. It is known once the daemon has read its identity. */
interface Logger {
  id?: string | undefined;
  /** The name that people gave to the daemon; undefined if it has none. */
  ownName?: string | undefined;
}

/** A daemon's own log. */
export interface DaemonLog extends Log {
  /**
   * Adds the daemon's identity to every later line.
   * @param logger called for each line, because a device may get another name at any time
   */
  identify(logger: () => Logger): void;
}

type Role = 'origin' | 'gateway' | 'agent';

/** The fields that version 0.1.0 put into each line. Programs may sort lines by them. */
const SAID_BEFORE: Record<Role, object> = {
  origin: { service: 'sitecast-origin' },
  gateway: { name: 'sitecast-gateway', pid: process.pid, hostname: hostname() },
  agent: {},
};

/** The bound of lines that standard error doesn't accept, for example a file on a full disk. Later lines are dropped. */
const MAX_HELD_BYTES = 256 * 1024;
const STDERR = 2;

interface LogTarget {
  write(line: string): unknown;
  isTerminal: boolean;
  isJournal: boolean;
}

/**
 * Opens the log of a daemon, or of one of its subcommands. It writes synchronously: what a process has logged is there when the process
 * is killed.
 */
export function openLog(
  { role, level, format }: LogSettings & { role: Role },
  { target = standardError(), now }: { target?: LogTarget; now?: () => number } = {},
): DaemonLog {
  let identity = (): Logger => ({});
  const shown = format ?? defaultFormat(target);
  const before = shown === 'json' ? SAID_BEFORE[role] : {};
  const toLine = shown === 'json' ? jsonLine : (json: string) => textLine(json, target);
  const lines = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
      // `errorFields` has serialized the error.
      serializers: { err: (error: unknown) => error },
    },
    { write: json => target.write(`${toLine(json.trimEnd())}\n`) },
  );
  const repeats = new Repeats(now);
  const at = (severity: LogLevel) => (fields: LogFields, message: string) => {
    if (!lines.isLevelEnabled(severity)) return;
    const line = lineFields(fields, severity);
    // At level debug each attempt is logged.
    const again = lines.isLevelEnabled('debug') ? 0 : timesKeptBack(repeats, severity, { ...line, message });
    if (again === undefined) return;
    lines[severity]({ role, ...identity(), ...before, ...line, ...(again > 0 && { again }) }, message);
  };
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    identify: logger => {
      identity = logger;
    },
  };
}

/** JSON is the default wherever standard error is no terminal: a program may read it through a pipe, a file or the journal. */
function defaultFormat({ isTerminal }: LogTarget): LogFormat {
  return isTerminal ? 'text' : 'json';
}

function lineFields(fields: LogFields, severity: LogLevel): Record<string, unknown> {
  const named = Object.entries(fields).map(([name, value]) => [
    IS_RESERVED.has(name) ? `${name}_` : name,
    value,
  ]);
  const { err, ...others }: Record<string, unknown> = Object.fromEntries(named);
  // The caller's own fields win over those of the error.
  return err === undefined ? others : { ...errorFields(err, severity === 'debug'), ...others };
}

/** How often a line is logged before repeats are held back. A line that announces a retry is logged once. */
const FREE_TIMES = 3;
/** These differ from one attempt to the next. */
const VARYING = new Set(['detail', 'hint', 'err']);

/** @returns how many repeats were held back since the line was last logged; undefined if this one is held back, too */
function timesKeptBack(
  repeats: Repeats,
  severity: LogLevel,
  fields: Record<string, unknown>,
): number | undefined {
  const isRetry = 'waitMs' in fields;
  if (severity === 'info' && !isRetry) return 0;
  const same = Object.entries(fields).filter(
    ([name, value]) => !VARYING.has(name) && typeof value !== 'number' && value !== undefined,
  );
  return repeats.tell(JSON.stringify([severity, same]), isRetry ? 1 : FREE_TIMES);
}

function standardError(): LogTarget {
  const destination = pino.destination({ fd: STDERR, sync: true, maxLength: MAX_HELD_BYTES });
  // The daemon goes on where a line can't be written.
  destination.on('error', () => {});
  return {
    write: line => destination.write(line),
    isTerminal: isatty(STDERR),
    isJournal: isStderrJournal(),
  };
}

import { hostname } from 'node:os';
import { isatty } from 'node:tty';
import { pino } from 'pino';
import { errorFields } from './error-fields.ts';
import { isStderrJournal } from './journal.ts';
import { jsonLine, type LogLevel, textLine } from './line.ts';
import type { LogFormat, LogSettings } from './options.ts';
import { Repeats } from './repeats.ts';

/** Said of a line by the log itself: no field of a line may have such a name. */
const RESERVED = ['level', 'time', 'role', 'id', 'ownName', 'msg', 'again'] as const;
const IS_RESERVED: ReadonlySet<string> = new Set(RESERVED);

/** An error belongs into `err`; what it's about into a field of its own, such as `device`, `gateway` or `chunk`. */
export type LogFields = { readonly [name: string]: unknown } & {
  [name in (typeof RESERVED)[number]]?: never;
};

/**
 * What is logged: structured fields first, then one plain sentence. Never a token or a private key.
 * A warning or error that comes again and again is told now and then, with `again`; so is any line with `waitMs`, the pause before the next attempt.
 */
export interface Log {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

/** Who logs: known once its identity has been read. */
interface Logger {
  id?: string | undefined;
  /** That people gave to it; undefined: it has none. */
  ownName?: string | undefined;
}

/** A daemon's own log. */
export interface DaemonLog extends Log {
  /** Every later line says so. @param logger asked for each line: a device may be given another name at any time */
  identify(logger: () => Logger): void;
}

type Role = 'origin' | 'gateway' | 'agent';

/** What version 0.1.0 said in each line, for whoever sorts lines by it. */
const SAID_BEFORE: Record<Role, object> = {
  origin: { service: 'sitecast-origin' },
  gateway: { name: 'sitecast-gateway', pid: process.pid, hostname: hostname() },
  agent: {},
};

/** Of lines that standard error doesn't take, as where it's a file on a full disk. Later ones are dropped. */
const MAX_HELD_BYTES = 256 * 1024;
const STDERR = 2;

interface LogTarget {
  write(line: string): unknown;
  isTerminal: boolean;
  isJournal: boolean;
}

/** Opens the log of a daemon, or of a command of its. It's written at once: what a process has logged is there when it's killed. */
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
      // `errorFields` has done that.
      serializers: { err: (error: unknown) => error },
    },
    { write: json => target.write(`${toLine(json.trimEnd())}\n`) },
  );
  const repeats = new Repeats(now);
  const at = (severity: LogLevel) => (fields: LogFields, message: string) => {
    if (!lines.isLevelEnabled(severity)) return;
    const line = lineFields(fields, severity);
    // Whoever looks for a fault wants to see each attempt.
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

/** Whoever reads standard error with a program goes on getting JSON, whatever stands between: a pipe, a file or the journal. */
function defaultFormat({ isTerminal }: LogTarget): LogFormat {
  return isTerminal ? 'text' : 'json';
}

function lineFields(fields: LogFields, severity: LogLevel): Record<string, unknown> {
  const named = Object.entries(fields).map(([name, value]) => [
    IS_RESERVED.has(name) ? `${name}_` : name,
    value,
  ]);
  const { err, ...others }: Record<string, unknown> = Object.fromEntries(named);
  // What the caller says of the error says more.
  return err === undefined ? others : { ...errorFields(err, severity === 'debug'), ...others };
}

/** How often a line is told before it's kept back for a while; one that announces its next attempt just once. */
const FREE_TIMES = 3;
/** They differ from one attempt to the next. */
const VARYING = new Set(['detail', 'hint', 'err']);

/** @returns undefined where this line is to be kept back */
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
  // A line that can't be written is no reason to end.
  destination.on('error', () => {});
  return {
    write: line => destination.write(line),
    isTerminal: isatty(STDERR),
    isJournal: isStderrJournal(),
  };
}

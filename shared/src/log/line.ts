import { plainJson, plainLine } from '../command/plain-text.ts';
import { cutText } from '../text/index.ts';

/**
 * The form of a daemon's log line. Any message and any field may hold text that devices, gateways or strangers sent. A record stays one
 * line, and text in one field can't imitate another field.
 */

/** The levels, each with its priority in the journal: sd-daemon(3). */
export const PRIORITIES = { debug: 7, info: 6, warn: 4, error: 3 } as const;
export type LogLevel = keyof typeof PRIORITIES;

/** One record, as it was logged. It may have further fields of any JSON type. */
interface LogRecord {
  level: LogLevel;
  /** RFC 3339, in UTC, with milliseconds. */
  time: string;
  role: string;
  id?: string;
  ownName?: string;
  msg: string;
  [field: string]: unknown;
}

/**
 * In UTF-16 code units. The journal cuts lines of more than 48 KiB (LineMax= of journald.conf(5)), and would show the rest as a line of
 * its own.
 */
const MAX_LINE_CHARS = 12 * 1024;
/** The bound of the message, and of each field, in a line that is too long. */
const MAX_PART_CHARS = 512;
const MAX_FIELDS = 12;

/** A text line shows this much of an id. It is enough to tell daemons apart, and `sitecast` accepts it in place of the whole id. */
const SHOWN_ID_CHARS = 8;
/** A text line begins with these, so they don't follow as fields. */
const NOT_SHOWN = new Set(['level', 'time', 'role', 'id', 'ownName', 'msg']);
const BARE = /^[^\s"'=(){}[\]]+$/u;

/**
 * One line of JSON, without its line feed.
 * @param json the record
 */
export function jsonLine(json: string): string {
  return fitting(json, plainJson, record => plainJson(JSON.stringify(record)));
}

/**
 * One line for people: `TIME LEVEL ROLE NAME: MESSAGE field=value …`. For the journal the priority stands in place of the time. A `=`
 * outside of quotes always follows a field's name.
 * @param json the record
 */
export function textLine(json: string, { isJournal }: { isJournal: boolean }): string {
  return fitting(
    json,
    text => textOf(parseRecord(text), isJournal),
    record => textOf(record, isJournal),
  );
}

/** Escaping makes a line longer. So the length is checked again after it. */
function fitting(
  json: string,
  whole: (json: string) => string,
  shown: (record: LogRecord) => string,
): string {
  const line = json.length <= MAX_LINE_CHARS ? whole(json) : undefined;
  return line !== undefined && line.length <= MAX_LINE_CHARS ? line : shown(shortened(parseRecord(json)));
}

function textOf(record: LogRecord, isJournal: boolean): string {
  const { level, time, role, id, ownName, msg } = record;
  const who = ownName ?? id?.slice(-SHOWN_ID_CHARS);
  const begin = isJournal ? `<${PRIORITIES[level]}>${level}` : `${time} ${level.padEnd(5)}`;
  const fields = Object.entries(record).flatMap(([name, value]) => {
    if (NOT_SHOWN.has(name)) return [];
    return name === 'err' && isRecord(value) ? shownError(value, msg) : shownField(name, value);
  });
  const stack = isRecord(record.err) ? shownField('stack', record.err.stack) : [];
  const head = `${begin} ${role}${who === undefined ? '' : ` ${plainName(who)}`}: ${message(msg)}`;
  return [head, ...fields, ...stack].join(' ');
}

/** The message stays unquoted where it can't be taken for a field. */
const message = (text: string): string => (/[="]/.test(text) ? quoted(text) : plainLine(text));

function shownField(name: string, value: unknown): string[] {
  if (value === undefined || value === null) return [];
  if (typeof value !== 'string') return [`${plainName(name)}=${plainJson(JSON.stringify(value))}`];
  const isBare = BARE.test(value) && plainLine(value) === value;
  return [`${plainName(name)}=${isBare ? value : quoted(value)}`];
}

/** Leaves out an error text that the message contains already. */
function shownError({ message: said }: Record<string, unknown>, msg: string): string[] {
  return typeof said === 'string' && msg.includes(said) ? [] : shownField('error', said);
}

const quoted = (text: string): string => plainJson(JSON.stringify(text));

/** Code names the fields, so other characters aren't expected. They are replaced all the same. */
const plainName = (name: string): string => name.replaceAll(/[^\w.-]/g, '_');

/** Keeps the most useful fields of a line that is too long. */
function shortened(record: LogRecord): LogRecord {
  const { level, time, role, id, ownName, msg, ...fields } = record;
  const kept = Object.entries(fields).slice(0, MAX_FIELDS);
  return {
    level,
    time,
    role,
    ...(id !== undefined && { id }),
    ...(ownName !== undefined && { ownName }),
    ...Object.fromEntries(kept.map(([name, value]) => [cutText(name, 64), shortenedValue(value)])),
    isCut: true,
    msg: cutText(msg, MAX_PART_CHARS),
  };
}

function shortenedValue(value: unknown): unknown {
  if (typeof value === 'string') return cutText(value, MAX_PART_CHARS);
  const json = JSON.stringify(value);
  return json.length <= MAX_PART_CHARS ? value : cutText(json, MAX_PART_CHARS);
}

const parseRecord = (json: string): LogRecord => JSON.parse(json);

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

import type { AuditEntry } from './entry.ts';

/** Which entries of an audit log are wanted; what isn't named lets every one through. */
export interface AuditFilter {
  /** Who: the whole name. */
  by?: string | undefined;
  /** What: `rollout.start`, or `rollout` for all that was done to rollouts. */
  action?: string | undefined;
  /** Of what: `device:12D3…`, `device` for every one, or just the name; of an id its beginning or end. */
  subject?: string | undefined;
  /** Both included. */
  sinceMs?: number | undefined;
  untilMs?: number | undefined;
}

/** Names as long as this are ids: a part of one is enough. */
const ID_CHARS = 16;

export function isWanted(
  { at, by, action, subject }: AuditEntry,
  { sinceMs = Number.NEGATIVE_INFINITY, untilMs = Number.POSITIVE_INFINITY, ...wanted }: AuditFilter,
): boolean {
  const atMs = Date.parse(at);
  return (
    atMs >= sinceMs &&
    atMs <= untilMs &&
    (wanted.by === undefined || wanted.by === by) &&
    (wanted.action === undefined || isPart(wanted.action, action, '.')) &&
    (wanted.subject === undefined || isOf(wanted.subject, subject))
  );
}

function isOf(wanted: string, subject: string): boolean {
  const name = subject.slice(subject.indexOf(':') + 1);
  const isId = name.length >= ID_CHARS && wanted !== '';
  return (
    isPart(wanted, subject, ':') ||
    isPart(wanted, name, '/') ||
    (isId && (name.startsWith(wanted) || name.endsWith(wanted)))
  );
}

/** The whole, or what stands before the separator. */
const isPart = (wanted: string, whole: string, separator: string): boolean =>
  whole === wanted || whole.startsWith(`${wanted}${separator}`);

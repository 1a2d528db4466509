import { type ErrorCode, SitecastError } from '@sitecast/shared/errors';
import { type Metadata, toDateTime } from '@sitecast/shared/trust';
import type { Committed } from './committed.ts';
import type { LeapNote } from './repository-store.ts';

const DAY_MS = 86_400_000;
/** How long after the last timestamp a clock is still believed: longer than the origin's own signatures hold, which is 14 days. */
const MAX_CLOCK_LEAP_MS = 30 * DAY_MS;
/** A clock that shows an earlier time was never set, as this software is newer. */
const EARLIEST_MS = Date.parse('2026-01-01T00:00:00Z');
/** With a larger difference, devices consider their own clocks to be behind. */
const CLIENTS_SKEW_MS = 5 * 60_000;

/** Why the origin's clock isn't believed, and what to do about it. */
export interface ClockDoubt {
  code: ErrorCode;
  message: string;
  hint: string;
  /** True if nothing may be signed by such a clock. */
  isRefused: boolean;
  /** True if clients suffer from it. */
  isFelt: boolean;
}

interface ClockFacts {
  committed: Committed | undefined;
  nowMs: number;
  /** When this origin issued a timestamp that others have seen. The data directory may be older. */
  seenIssuedMs?: number | undefined;
  /** By how much the clock has leapt ahead in total, according to `ClockLeaps`. */
  leaptMs?: number;
  /** The day that an operator has confirmed, such as `2026-11-30`. */
  acceptedDay?: string | undefined;
}

/**
 * Compares the clock with the last timestamp. Clients never go back behind a signed time, so a clock that runs ahead does lasting harm:
 * nothing is signed far ahead of the last timestamp before an operator has confirmed the day.
 */
export function clockDoubt({
  committed,
  nowMs,
  seenIssuedMs = 0,
  leaptMs = 0,
  acceptedDay,
}: ClockFacts): ClockDoubt | undefined {
  if (nowMs < EARLIEST_MS) return neverSet(nowMs);
  const issuedMs = committed && issuedMsOf(committed.timestamp);
  const lastMs = Math.max(issuedMs ?? 0, seenIssuedMs);
  if (lastMs === 0) return undefined;
  if (issuedMs !== undefined && nowMs < issuedMs) return behind(nowMs, issuedMs);
  if (isDay(nowMs, acceptedDay)) return undefined;
  if (nowMs - lastMs > MAX_CLOCK_LEAP_MS) return ahead(nowMs, lastMs);
  return leaptMs > MAX_CLOCK_LEAP_MS ? leapt(nowMs, leaptMs) : undefined;
}

/** @throws SITECAST_CLOCK_AHEAD, SITECAST_CLOCK_NEVER_SET (failed) */
export function demandClock(doubt: ClockDoubt | undefined): void {
  if (doubt?.isRefused !== true) return;
  throw new SitecastError('failed', doubt.code, doubt.message, { hint: doubt.hint });
}

export function issuedMsOf({ signed }: Metadata<'timestamp'>): number {
  return signed.issued === undefined ? 0 : Date.parse(signed.issued);
}

function neverSet(nowMs: number): ClockDoubt {
  return {
    code: 'SITECAST_CLOCK_NEVER_SET',
    message: `the origin's clock says ${toDateTime(nowMs)}, before this software was written: nothing is signed by it`,
    hint: "Set the origin's clock.",
    isRefused: true,
    isFelt: true,
  };
}

function ahead(nowMs: number, lastMs: number): ClockDoubt {
  const days = Math.floor((nowMs - lastMs) / DAY_MS);
  return {
    code: 'SITECAST_CLOCK_AHEAD',
    message: `the origin's clock says ${toDateTime(nowMs)}, ${days} days after the last timestamp was signed (${toDateTime(lastMs)}): nothing is signed by it`,
    hint: `Set the clock if it's wrong. If it's right, start the origin once with --accept-clock ${dayOf(nowMs)}.`,
    isRefused: true,
    isFelt: true,
  };
}

function leapt(nowMs: number, leaptMs: number): ClockDoubt {
  const days = Math.floor(leaptMs / DAY_MS);
  const { code, hint, isRefused, isFelt } = ahead(nowMs, nowMs);
  const message = `the origin's clock says ${toDateTime(nowMs)}, and has leapt ahead by ${days} days in several starts, in which the origin hardly ran: nothing is signed by it`;
  return { code, message, hint, isRefused, isFelt };
}

function behind(nowMs: number, issuedMs: number): ClockDoubt {
  return {
    code: 'SITECAST_CLOCK_BEHIND',
    message: `the last timestamp says that it was signed at ${toDateTime(issuedMs)}, ${lasting(issuedMs - nowMs)} after what the origin's clock says now (${toDateTime(nowMs)}): the clock is behind, or was ahead then`,
    hint: "Set the origin's clock if it's wrong. If it's right, `sitecast keys rotate timestamp` takes the timestamp back.",
    isRefused: false,
    isFelt: issuedMs - nowMs > CLIENTS_SKEW_MS,
  };
}

function lasting(ms: number): string {
  if (ms < 2 * 60_000) return `${Math.ceil(ms / 1000)} s`;
  if (ms < 2 * DAY_MS) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / DAY_MS)} days`;
}

/** A day of running makes up for a leap of thirty days, so an origin that is switched off every night or weekend is never refused. */
const FORGIVEN_PER_MS = 30;

/**
 * Adds up by how much the clock has leapt ahead: the time between two timestamps, minus the time that the origin is known to have run
 * between them. Otherwise a clock could leap at each start, by a little less than is refused.
 */
export class ClockLeaps {
  readonly #elapsedMs: () => number;
  #leaptMs: number;
  /** By `elapsedMs`: when the last timestamp was signed, or this process began. */
  #sinceMs: number;

  /**
   * @param elapsedMs a clock that nobody sets, such as `performance.now`
   * @param issuedMs when the timestamp in force was issued; the note's timestamp may have been undone
   */
  constructor(elapsedMs: () => number, note: LeapNote | undefined, issuedMs: number) {
    this.#elapsedMs = elapsedMs;
    this.#sinceMs = elapsedMs();
    this.#leaptMs = note ? Math.max(0, note.leaptMs - Math.max(0, note.issuedMs - issuedMs)) : 0;
  }

  /** The total, including the leap if a timestamp were signed now. */
  total(nowMs: number, lastIssuedMs: number): number {
    const ranMs = Math.max(0, this.#elapsedMs() - this.#sinceMs);
    const leapMs = lastIssuedMs === 0 ? 0 : Math.max(0, nowMs - lastIssuedMs - ranMs);
    return Math.max(0, this.#leaptMs - ranMs * FORGIVEN_PER_MS) + leapMs;
  }

  /** A timestamp that was signed just now is in force. @param leaptMs by `total`, or 0 if an operator has vouched for the clock */
  signed(leaptMs: number): void {
    this.#leaptMs = leaptMs;
    this.#sinceMs = this.#elapsedMs();
  }
}

/** One day before or after is accepted: the operator may be in another time zone, or midnight may pass. */
export function isDay(nowMs: number, acceptedDay: string | undefined): boolean {
  return acceptedDay !== undefined && [-1, 0, 1].some(days => dayOf(nowMs + days * DAY_MS) === acceptedDay);
}

function dayOf(ms: number): string {
  return toDateTime(ms).slice(0, 10);
}

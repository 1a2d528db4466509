import { SitecastError } from '../errors.ts';
import { cutText } from '../text/index.ts';

const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'] as const;
const DAY_MINUTES = 24 * 60;
const MAX_SPANS = 16;
export const MAX_WINDOW_CHARS = 128;
const SPAN =
  /^(?:(Sun|Mon|Tue|Wed|Thu|Fri|Sat)(?:-(Sun|Mon|Tue|Wed|Thu|Fri|Sat))? )?(\d\d):(\d\d)-(\d\d):(\d\d)$/;

interface Span {
  /** Days of the week on which the span begins; 0 is Sunday. */
  days: ReadonlySet<number>;
  fromMinute: number;
  /** Beyond 24 hours if the span runs past midnight. */
  toMinute: number;
}

/** When a device may activate: `Mon-Fri 01:00-05:00`. Commas separate several spans. A span without days holds every day. */
export type ActivationWindow = readonly Span[];

/**
 * A span whose end isn't after its start runs past midnight. It belongs to the day on which it begins.
 * @throws SITECAST_WINDOW_INVALID
 */
export function parseWindow(text: string): ActivationWindow {
  if (text.length > MAX_WINDOW_CHARS) throw invalid(text);
  const parts = text.split(',').map(part => part.trim());
  if (parts.length > MAX_SPANS) throw invalid(text);
  return parts.map(part => parseSpan(part, text));
}

function parseSpan(part: string, text: string): Span {
  const match = SPAN.exec(part);
  if (!match) throw invalid(text);
  const [, firstDay, lastDay, ...clock] = match;
  const [fromHour = 0, fromMinutes = 0, toHour = 0, toMinutes = 0] = clock.map(Number);
  if (fromHour > 23 || toHour > 24 || fromMinutes > 59 || toMinutes > 59 || (toHour === 24 && toMinutes > 0))
    throw invalid(text);
  const fromMinute = fromHour * 60 + fromMinutes;
  const toMinute = toHour * 60 + toMinutes;
  return {
    days: daysOf(firstDay, lastDay),
    fromMinute,
    toMinute: toMinute > fromMinute ? toMinute : toMinute + DAY_MINUTES,
  };
}

function daysOf(first: string | undefined, last: string | undefined): Set<number> {
  if (first === undefined) return new Set(DAYS.keys());
  const from = DAYS.findIndex(day => day === first);
  const to = last === undefined ? from : DAYS.findIndex(day => day === last);
  const count = ((to - from + 7) % 7) + 1;
  return new Set(Array.from({ length: count }, (_, index) => (from + index) % 7));
}

/** @param local day of the week (0 is Sunday) and minute of the day, by the device's own time zone */
export function isOpen(window: ActivationWindow, local: { day: number; minute: number }): boolean {
  const yesterday = (local.day + 6) % 7;
  return window.some(
    ({ days, fromMinute, toMinute }) =>
      (days.has(local.day) && local.minute >= fromMinute && local.minute < toMinute) ||
      (days.has(yesterday) && local.minute + DAY_MINUTES < toMinute),
  );
}

/** @param nowMs milliseconds since 1970 */
export function localTimeOf(nowMs: number): { day: number; minute: number } {
  const date = new Date(nowMs);
  return { day: date.getDay(), minute: date.getHours() * 60 + date.getMinutes() };
}

function invalid(text: string): SitecastError {
  return new SitecastError(
    'badInput',
    'SITECAST_WINDOW_INVALID',
    `${JSON.stringify(cutText(text, MAX_WINDOW_CHARS))} is no activation window`,
    { hint: 'such as `Mon-Fri 01:00-05:00, Sat 00:00-24:00`' },
  );
}

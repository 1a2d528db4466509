import type { SignedTimestamp } from './metadata.ts';

/** How much later than `issued` a timestamp may look before the clock counts as behind. */
const CLOCK_SKEW_MS = 5 * 60_000;
/** How long after its expiry a trusted timestamp speaks against the clock, rather than of a site that was cut off. */
const CLOCK_SUSPECT_AFTER_MS = 30 * 24 * 3_600_000;

/** What the trusted timestamp tells about the local clock. */
export interface Clock {
  /**
   * - `unknown`: no trusted timestamp, or none that says when it was issued
   * - `ok`
   * - `behind`: the clock is before `issued`; `issued` is taken for the time
   * - `suspect`: the clock is more than 30 days after the timestamp's expiry: it is wrong, or the device was
   *   cut off that long
   */
  state: 'unknown' | 'ok' | 'behind' | 'suspect';
  /** When the trusted timestamp was signed, milliseconds since 1970. */
  issuedMs: number | undefined;
}

/** Milliseconds since 1970; undefined if it doesn't say. */
export function issuedMsOf(timestamp: SignedTimestamp | undefined): number | undefined {
  return timestamp?.issued === undefined ? undefined : Date.parse(timestamp.issued);
}

export function clockOf(timestamp: SignedTimestamp | undefined, nowMs: number): Clock {
  const issuedMs = issuedMsOf(timestamp);
  if (timestamp === undefined || issuedMs === undefined) return { state: 'unknown', issuedMs: undefined };
  if (nowMs < issuedMs - CLOCK_SKEW_MS) return { state: 'behind', issuedMs };
  const suspectFromMs = Date.parse(timestamp.expires) + CLOCK_SUSPECT_AFTER_MS;
  return { state: nowMs > suspectFromMs ? 'suspect' : 'ok', issuedMs };
}

import type { SignedTimestamp } from './metadata.ts';

/** How much later than the clock `issued` may be before the clock counts as behind. */
const CLOCK_SKEW_MS = 5 * 60_000;
/** How long after the expiry of the trusted timestamp the clock counts as suspect. Before that, the site was probably cut off. */
const CLOCK_SUSPECT_AFTER_MS = 30 * 24 * 3_600_000;

/** What the trusted timestamp says about the local clock. */
export interface Clock {
  /**
   * - `unknown`: there is no trusted timestamp, or it lacks `issued`
   * - `ok`
   * - `behind`: the clock is before `issued`, and `issued` is used as the time
   * - `suspect`: the clock is more than 30 days after the timestamp's expiry. It is wrong, or the device was cut off for that long
   */
  state: 'unknown' | 'ok' | 'behind' | 'suspect';
  /** When the trusted timestamp was signed, milliseconds since 1970. */
  issuedMs: number | undefined;
}

/** Milliseconds since 1970; undefined if the timestamp lacks `issued`. */
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

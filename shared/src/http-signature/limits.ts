/** How far the clocks of both sides may differ. A request is valid for twice as long, and its nonce is remembered for that time. */
export const MAX_CLOCK_SKEW_MS = 5 * 60_000;

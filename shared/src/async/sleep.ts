import { setTimeout as timer } from 'node:timers/promises';

/** Node fires a timer with a longer delay at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Waits for a time, at most 24 days, or until the signal fires.
 * @param options.ref whether the timer keeps the process alive
 * @returns false if the signal fired first
 */
export async function sleep(
  lengthMs: number,
  signal?: AbortSignal,
  { ref = false }: { ref?: boolean } = {},
): Promise<boolean> {
  try {
    await timer(Math.min(lengthMs, MAX_TIMER_MS), undefined, { ref, ...(signal && { signal }) });
    return true;
  } catch (error) {
    if (signal?.aborted) return false;
    throw error;
  }
}

import { FullDiskError } from '@sitecast/shared/durable';
import { isSystemError, SitecastError, systemCodeOf } from '@sitecast/shared/errors';
import type { Reason } from '../state/agent-state.ts';
import type { CycleResult } from '../state/status.ts';

/**
 * Ends the cycle; its result says how. `waiting`: the update goes on later. `failed`: the attempt is over. `idle`: the update is no longer
 * wanted.
 */
export class CycleEnd extends Error {
  override readonly name = 'CycleEnd';
  readonly result: CycleResult;

  constructor(message: string, result: CycleResult) {
    super(message);
    this.result = result;
  }
}

/** The update can't go on now, but it may later. */
export function postponed(waitingFor: string, reason: Reason, retryMs?: number): CycleEnd {
  return new CycleEnd(reason.message, { state: 'waiting', waitingFor, reason, retryMs });
}

/** The attempt is over. */
export function failed(reason: Reason): CycleEnd {
  return new CycleEnd(reason.message, { state: 'failed', reason });
}

/** The update is no longer wanted. The next cycle begins at once, and chooses again. */
export function superseded(message: string): CycleEnd {
  return new CycleEnd(message, { state: 'idle', retryMs: 0 });
}

const SPACE_RETRY_MS = 60_000;
const SLOT_RETRY_MS = 60_000;
/** Codes about the slot, not about the release: its device node isn't there yet, it is still mounted, or its path leads elsewhere. */
const SLOT_WAITS: ReadonlySet<string> = new Set([
  'SITECAST_SLOT_MISSING',
  'SITECAST_SLOT_BUSY',
  'SITECAST_SLOT_OVERLAP',
]);

/** How an error ends a cycle; undefined for a programming error. */
export function resultOf(error: unknown): CycleResult | undefined {
  if (error instanceof CycleEnd) return error.result;
  const waiting = waitOf(error);
  if (waiting) return waiting;
  if (isSystemError(error))
    return { state: 'failed', reason: { code: `SITECAST_SYSTEM_${error.code}`, message: error.message } };
  if (!(error instanceof SitecastError)) return undefined;
  return { state: 'failed', reason: { code: error.code, message: error.message } };
}

/**
 * How an error ends an attempt to install, or just this try.
 * @throws other errors: the reason of `signal`, a system error that isn't waited for, a programming error
 */
export function resultOfAttempt(error: unknown, signal: AbortSignal): CycleResult {
  if (error instanceof CycleEnd && error !== signal.reason) return error.result;
  signal.throwIfAborted();
  const result = resultOf(error);
  if (result?.state === 'waiting' || (result && error instanceof SitecastError)) return result;
  throw error;
}

function waitOf(error: unknown): CycleResult | undefined {
  if (isSystemError(error, 'ENOSPC', 'EDQUOT', 'EROFS', 'EIO')) {
    const message =
      error instanceof FullDiskError
        ? `${error.message}: it goes on by itself within a minute once there is room`
        : `the data directory can't be written: ${error.message}`;
    return {
      state: 'waiting',
      waitingFor: 'space',
      reason: { code: `SITECAST_SYSTEM_${systemCodeOf(error)}`, message },
      retryMs: SPACE_RETRY_MS,
    };
  }
  if (!(error instanceof SitecastError)) return undefined;
  const reason = { code: error.code, message: error.message };
  if (SLOT_WAITS.has(error.code))
    return { state: 'waiting', waitingFor: 'slot', reason, retryMs: SLOT_RETRY_MS };
  if (error.kind === 'unreachable') return { state: 'waiting', waitingFor: 'source', reason };
  if (error.kind === 'noSpace')
    return { state: 'waiting', waitingFor: 'space', reason, retryMs: SPACE_RETRY_MS };
  if (error.kind === 'untrusted' || error.kind === 'tooLarge' || error.kind === 'notFound')
    return { state: 'waiting', waitingFor: 'metadata', reason };
  return undefined;
}

import { isSystemError, SitecastError, systemCodeOf } from '@sitecast/shared/errors';
import type { Reason } from '../state/agent-state.ts';
import type { CycleResult } from '../state/status.ts';

/** Thrown by whatever can't go on now, but may later: the update isn't failed. */
export class Postponed extends Error {
  override readonly name = 'Postponed';
  readonly rest: CycleResult;

  constructor(waitingFor: string, reason: Reason, retryMs?: number) {
    super(reason.message);
    this.rest = { state: 'waiting', waitingFor, reason, retryMs };
  }
}

/** Thrown by whatever ends this attempt. */
export class Failed extends Error {
  override readonly name = 'Failed';
  readonly reason: Reason;

  constructor(reason: Reason) {
    super(reason.message);
    this.reason = reason;
  }
}

/** The reason that an abandoned download is aborted with. */
export class Superseded extends Error {
  override readonly name = 'Superseded';
}

/** Thrown where a slot that was verified no longer holds its image: what is wrong is to be fetched again. */
export class SlotAltered extends Error {
  override readonly name = 'SlotAltered';
}

const SPACE_RETRY_MS = 60_000;
const SLOT_RETRY_MS = 60_000;
/** A device that comes late, something that is still mounted, a link that leads astray: no matter of the release. */
const SLOT_WAITS: ReadonlySet<string> = new Set([
  'SITECAST_SLOT_MISSING',
  'SITECAST_SLOT_BUSY',
  'SITECAST_SLOT_OVERLAP',
]);

/** Does this end the attempt, or just this try? */
export function outcomeOf(error: unknown, signal: AbortSignal): Failed | Postponed {
  if (error instanceof Failed || error instanceof Postponed) return error;
  signal.throwIfAborted();
  const rest = restOf(error);
  if (rest?.reason) return new Postponed(rest.waitingFor ?? 'gateway', rest.reason, rest.retryMs);
  if (error instanceof SitecastError) return new Failed({ code: error.code, message: error.message });
  throw error;
}

export function failureOf(error: unknown): CycleResult | undefined {
  if (error instanceof Failed) return { state: 'failed', reason: error.reason };
  if (isSystemError(error))
    return { state: 'failed', reason: { code: `SITECAST_SYSTEM_${error.code}`, message: error.message } };
  if (!(error instanceof SitecastError)) return undefined;
  return { state: 'failed', reason: { code: error.code, message: error.message } };
}

/** Where an error leaves a cycle; undefined for what isn't a matter of waiting. */
export function restOf(error: unknown): CycleResult | undefined {
  if (error instanceof Postponed) return error.rest;
  if (isSystemError(error, 'ENOSPC', 'EDQUOT', 'EROFS', 'EIO')) {
    const message = `the data directory can't be written: ${error.message}`;
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

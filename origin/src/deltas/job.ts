import { counterSchema, type DeltaName, nameSchema } from '@sitecast/shared/release';
import { DELTA_STATES } from '@sitecast/shared/api';
import { z } from 'zod';

/**
 * Its states:
 *
 * - `waiting`: its turn comes; after a failure, not before `notBefore`
 * - `making`: windows are being made
 * - `published`: devices can use it
 * - `notWorth`: chunks cost no more
 * - `failed`: given up after MAX_TRIES
 * - `removed`: an operator removed it, or nobody needs it any more; `reason` says which. It isn't listed, and its work is deleted
 *
 * It is a delta that is being made, or was.
 */
export const deltaJobSchema = z.object({
  product: nameSchema,
  from: counterSchema,
  to: counterSchema,
  state: z.enum(DELTA_STATES),
  /** The operator who asked for it, or `origin`. */
  by: z.string(),
  requestedAt: z.string(),
  /** How often making it has failed. */
  tries: z.int().min(0),
  /** While it is made: windows that were finished when that began. */
  windowsBefore: z.int().min(0).exactOptional(),
  notBefore: z.string().exactOptional(),
  reason: z.object({ code: z.string(), message: z.string() }).exactOptional(),
  /** How much of the target image has been gone through, in ten thousandths. */
  doneBasisPoints: z.int().min(0).max(10_000),
  /** Windows that have a patch, and the bytes of their patches. */
  patches: z.int().min(0),
  patchBytes: z.int().min(0),
  /** Once it is published: bytes of recipe and patch index, and of the frames that neither base nor patches give. */
  headBytes: z.int().min(0).exactOptional(),
  restBytes: z.int().min(0).exactOptional(),
  /** What a device fetches without it, once that is known: the index and the frames that the base lacks. */
  chunkBytes: z.int().min(0).exactOptional(),
  /** When it was published, or found not to pay, or given up, or removed. */
  endedAt: z.string().exactOptional(),
});
export type DeltaJob = z.infer<typeof deltaJobSchema>;

/** How often making a delta may fail, and how long it rests after the first time; each further rest is twice as long. */
const MAX_TRIES = 4;
const FIRST_REST_MS = 60_000;
/** How long a removed delta is shown. */
const SHOWN_REMOVED_MS = 7 * 24 * 3_600_000;

export function newJob({ product, from, to }: DeltaName, by: string, nowMs: number): DeltaJob {
  const requestedAt = new Date(nowMs).toISOString();
  const none = { tries: 0, doneBasisPoints: 0, patches: 0, patchBytes: 0 };
  return { product, from, to, state: 'waiting', by, requestedAt, ...none };
}

/**
 * A job that was being made when its process died. That counts as a try, unless a window was finished meanwhile: a delta of many windows
 * isn't given up for many restarts.
 * @param windows that are finished
 */
export function interruptedJob(
  { windowsBefore = 0, ...job }: DeltaJob,
  windows: number,
  nowMs: number,
): DeltaJob {
  if (windows > windowsBefore) return { ...job, state: 'waiting' };
  const message = 'the origin ended in the midst of making it, with no window finished since it had begun';
  return failedJob(job, { code: 'SITECAST_DELTA_INTERRUPTED', message }, nowMs);
}

export function isUnfinished({ state }: DeltaJob): boolean {
  return state === 'waiting' || state === 'making';
}

/** Bytes that a device fetches by this delta, if it holds nothing else; undefined before it is published. */
export function costOf({ state, headBytes = 0, restBytes = 0, patchBytes }: DeltaJob): number | undefined {
  return state === 'published' ? headBytes + restBytes + patchBytes : undefined;
}

/** What its bytes would be if the rest of the image were as what is made; undefined before anything is. */
export function estimatedCostOf({ doneBasisPoints, patchBytes, ...job }: DeltaJob): number | undefined {
  if (!isUnfinished({ doneBasisPoints, patchBytes, ...job }) || doneBasisPoints === 0) return undefined;
  return Math.round((10_000 * patchBytes) / doneBasisPoints);
}

export function failedJob(job: DeltaJob, reason: DeltaJob['reason'], nowMs: number): DeltaJob {
  const tries = job.tries + 1;
  const notBefore = new Date(nowMs + FIRST_REST_MS * 2 ** (tries - 1)).toISOString();
  const isGivenUp = tries >= MAX_TRIES;
  return {
    ...job,
    state: isGivenUp ? 'failed' : 'waiting',
    tries,
    notBefore,
    ...(isGivenUp && { endedAt: new Date(nowMs).toISOString() }),
    ...(reason && { reason }),
  };
}

/** What is left of a delta that is removed: that it was there, and why it isn't any more. */
export function removedJob(
  { product, from, to, by, requestedAt, state, reason: failure }: DeltaJob,
  { code, message }: NonNullable<DeltaJob['reason']>,
  nowMs: number,
): DeltaJob {
  const endedAt = new Date(nowMs).toISOString();
  // One that succeeded in the end still knows why it failed before.
  const isUnmade = failure && state !== 'published' && state !== 'notWorth';
  const reason = {
    code,
    message: isUnmade ? `${message}; making it had failed: ${failure.code}: ${failure.message}` : message,
  };
  return { ...newJob({ product, from, to }, by, nowMs), state: 'removed', requestedAt, reason, endedAt };
}

/** Whether it was removed before a time, so that what is wanted since then is made nevertheless. */
export function isRemovedBefore({ state, endedAt = '' }: DeltaJob, ms: number): boolean {
  return state === 'removed' && Date.parse(endedAt) < ms;
}

/** Whether it was removed so long ago that it isn't shown any more. */
export function isForgettable(job: DeltaJob, nowMs: number): boolean {
  return isRemovedBefore(job, nowMs - SHOWN_REMOVED_MS);
}

/**
 * The one whose turn it is, of those that are due: what rollouts under way need comes first, then what was asked for first.
 * @param isNeeded by a rollout under way
 */
export function nextJob(
  jobs: readonly DeltaJob[],
  isNeeded: (job: DeltaJob) => boolean,
  nowMs: number,
): DeltaJob | undefined {
  const due = jobs.filter(
    ({ state, notBefore }) =>
      state === 'waiting' && (notBefore === undefined || Date.parse(notBefore) <= nowMs),
  );
  return due.find(isNeeded) ?? due[0];
}

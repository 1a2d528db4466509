import { counterSchema, type DeltaName, nameSchema } from '@sitecast/shared/release';
import { DELTA_STATES } from '@sitecast/shared/api';
import { z } from 'zod';

/**
 * A delta that is being made, or was. Its states:
 *
 * - `waiting`: it waits for its turn; after a failure at least until `notBefore`
 * - `making`: windows are being made
 * - `published`: devices can use it
 * - `notWorth`: it isn't published, because fetching chunks costs no more
 * - `failed`: given up after MAX_TRIES
 * - `removed`: an operator removed it, or it is no longer needed; `reason` says which. It isn't listed, and its windows are deleted
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
  /** While it is being made: how many windows were finished when that began. */
  windowsBefore: z.int().min(0).exactOptional(),
  notBefore: z.string().exactOptional(),
  reason: z.object({ code: z.string(), message: z.string() }).exactOptional(),
  /** How much of the target image is done, in ten-thousandths. */
  doneBasisPoints: z.int().min(0).max(10_000),
  /** Windows that have a patch, and the bytes of their patches. */
  patches: z.int().min(0),
  patchBytes: z.int().min(0),
  /** Once it is published: bytes of recipe and patch index, and of the frames that neither base nor patches give. */
  headBytes: z.int().min(0).exactOptional(),
  restBytes: z.int().min(0).exactOptional(),
  /** What a device fetches without the delta, once that is known: the index and the frames that the base lacks. Bytes. */
  chunkBytes: z.int().min(0).exactOptional(),
  /** When it was published, given up or removed, or when it turned out not to pay. */
  endedAt: z.string().exactOptional(),
});
export type DeltaJob = z.infer<typeof deltaJobSchema>;

/** How often making a delta may fail, and how long to wait after the first failure. Each further wait is twice as long. */
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
 * A job that was being made when its process died. That counts as a try, unless a window was finished meanwhile: otherwise a delta of many
 * windows would be given up just because of many restarts.
 * @param windows how many are finished
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

/** Bytes that a device fetches with this delta, if it holds only the base; undefined before it is published. */
export function costOf({ state, headBytes = 0, restBytes = 0, patchBytes }: DeltaJob): number | undefined {
  return state === 'published' ? headBytes + restBytes + patchBytes : undefined;
}

/** Its cost if the rest of the image is like the part that is done; undefined before any part is done. */
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

/** A removed delta's job: what it was, and why it was removed. */
export function removedJob(
  { product, from, to, by, requestedAt, state, reason: failure }: DeltaJob,
  { code, message }: NonNullable<DeltaJob['reason']>,
  nowMs: number,
): DeltaJob {
  const endedAt = new Date(nowMs).toISOString();
  // A job that succeeded in the end still has the reason of an earlier failure.
  const isUnmade = failure && state !== 'published' && state !== 'notWorth';
  const reason = {
    code,
    message: isUnmade ? `${message}; making it had failed: ${failure.code}: ${failure.message}` : message,
  };
  return { ...newJob({ product, from, to }, by, nowMs), state: 'removed', requestedAt, reason, endedAt };
}

/** Whether it was removed before that time. A delta that is needed since then is made again. */
export function isRemovedBefore({ state, endedAt = '' }: DeltaJob, ms: number): boolean {
  return state === 'removed' && Date.parse(endedAt) < ms;
}

/** Whether it was removed so long ago that it isn't shown any more. */
export function isForgettable(job: DeltaJob, nowMs: number): boolean {
  return isRemovedBefore(job, nowMs - SHOWN_REMOVED_MS);
}

/**
 * The due job whose turn it is: first those that rollouts under way need, then by the order of requests.
 * @param isNeeded whether a rollout under way needs it
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

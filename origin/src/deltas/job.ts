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
});
export type DeltaJob = z.infer<typeof deltaJobSchema>;

/** How often making a delta may fail, and how long it rests after the first time; each further rest is twice as long. */
const MAX_TRIES = 4;
const FIRST_REST_MS = 60_000;

export function newJob({ product, from, to }: DeltaName, by: string, nowMs: number): DeltaJob {
  const requestedAt = new Date(nowMs).toISOString();
  const none = { tries: 0, doneBasisPoints: 0, patches: 0, patchBytes: 0 };
  return { product, from, to, state: 'waiting', by, requestedAt, ...none };
}

export function isUnfinished({ state }: DeltaJob): boolean {
  return state === 'waiting' || state === 'making';
}

/** Bytes that a device fetches by this delta, if it holds nothing else; undefined before it is published. */
export function costOf({ state, headBytes = 0, restBytes = 0, patchBytes }: DeltaJob): number | undefined {
  return state === 'published' ? headBytes + restBytes + patchBytes : undefined;
}

export function failedJob(job: DeltaJob, reason: DeltaJob['reason'], nowMs: number): DeltaJob {
  const tries = job.tries + 1;
  const notBefore = new Date(nowMs + FIRST_REST_MS * 2 ** (tries - 1)).toISOString();
  return {
    ...job,
    state: tries < MAX_TRIES ? 'waiting' : 'failed',
    tries,
    notBefore,
    ...(reason && { reason }),
  };
}

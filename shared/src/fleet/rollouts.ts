import { createHash } from 'node:crypto';
import { z } from 'zod';
import { SitecastError } from '../errors.ts';
import { nameSchema } from '../release/index.ts';
import { parseStrictJson } from '../trust/index.ts';
import {
  idSchema,
  instantSchema,
  releaseRefSchema,
  rolloutIdSchema,
  sha256Schema,
  siteSchema,
  tagsSchema,
} from './fields.ts';
import { MAX_WINDOW_CHARS } from './window.ts';

export const MAX_ROLLOUTS_BYTES = 1024 * 1024;
export const MAX_ROLLOUTS = 64;
export const MAX_SITES = 10_000;
export const MAX_REVOKED = 10_000;
/** Devices that a rollout names as canaries. */
export const MAX_CANARIES = 1000;
const DEFAULT_OFFLINE_FOR_MS = 24 * 3_600_000;
const DEFAULT_MAX_DOWN_BASIS_POINTS = 2500;

/** What the origin orders of the devices that a rollout reaches. */
export const ROLLOUT_STATES = ['active', 'paused', 'aborted', 'completed', 'rollingBack'] as const;
export type RolloutState = (typeof ROLLOUT_STATES)[number];

/** `rollouts/PRODUCT.json`: the name of the target that the origin's `rollouts` role signs. */
export const rolloutsTarget = (product: string): string => `rollouts/${product}.json`;

const matchSchema = z.looseObject({
  hardware: z.array(nameSchema).min(1).optional(),
  tags: tagsSchema.optional(),
  sites: z.array(siteSchema).min(1).max(MAX_SITES).optional(),
  /** Counters of the releases that devices come from; both bounds are included. */
  fromCounter: z.strictObject({ min: z.int().min(0), max: z.int().min(0) }).optional(),
});

export const rolloutSchema = z.looseObject({
  id: rolloutIdSchema,
  release: releaseRefSchema.extend({ manifestSha256: sha256Schema }),
  state: z.enum(ROLLOUT_STATES),
  match: matchSchema,
  cohort: z.looseObject({
    /** Devices whose rank is lower are in; null: all. */
    below: z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .nullable(),
    /** A device that enrols later waits for a later stage. */
    asOf: instantSchema.optional(),
    /** Devices that are in, whatever their rank and time of enrolment. */
    canaries: z.array(idSchema).max(MAX_CANARIES).optional(),
  }),
  /** When devices may activate, as in `Mon-Fri 01:00-05:00`; local time of the device. */
  window: z.string().max(MAX_WINDOW_CHARS).optional(),
  /** `window`: devices also download in the window only; otherwise at any time. */
  download: z.enum(['anytime', 'window']).optional(),
  notBefore: instantSchema.optional(),
  /**
   * Until then the origin makes deltas for this rollout. Who pays for each byte waits for them so long; everybody else begins with
   * chunks. Readers of earlier releases pass over it.
   */
  deltasBy: instantSchema.optional(),
  offlineForMs: z.int().min(0).default(DEFAULT_OFFLINE_FOR_MS),
  maxDownBasisPoints: z.int().min(1).max(10_000).default(DEFAULT_MAX_DOWN_BASIS_POINTS),
  /**
   * Devices whose gateways have been silent for hours may go down by turns, without a lease. Absent means no; readers of earlier releases pass
   * over it, and wait for a lease.
   */
  allowWithoutGateway: z.boolean().optional(),
  attempt: z.int().min(1),
  rollbackTo: releaseRefSchema.optional(),
  createdAt: instantSchema,
});
export type Rollout = z.infer<typeof rolloutSchema>;

const rolloutsFileSchema = z.looseObject({
  format: z.literal('sitecast-rollouts-1'),
  product: nameSchema,
  /** Newest last. */
  rollouts: z.array(rolloutSchema).max(MAX_ROLLOUTS),
  /** Ids of revoked devices and gateways. No one serves them any more. */
  revoked: z.array(idSchema).max(MAX_REVOKED),
});
export type RolloutsFile = z.infer<typeof rolloutsFileSchema>;

/** @throws SITECAST_ROLLOUTS_INVALID */
export function parseRollouts(bytes: Uint8Array): RolloutsFile {
  if (bytes.length > MAX_ROLLOUTS_BYTES) throw invalid(`more than ${MAX_ROLLOUTS_BYTES} bytes`);
  let value: unknown;
  try {
    value = parseStrictJson(bytes);
  } catch (error) {
    throw invalid(error instanceof Error ? error.message : String(error));
  }
  const parsed = rolloutsFileSchema.safeParse(value);
  if (!parsed.success) throw invalid(z.prettifyError(parsed.error));
  return parsed.data;
}

export function serializeRollouts(file: RolloutsFile): Buffer {
  return Buffer.from(`${JSON.stringify(file, null, 1)}\n`);
}

/** A device's place in the order of a rollout: SHA-256 of `rolloutId/deviceId`, in hex. */
export function rankOf(rolloutId: string, deviceId: string): string {
  return createHash('sha256').update(`${rolloutId}/${deviceId}`).digest('hex');
}

function invalid(reason: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_ROLLOUTS_INVALID', `this is no rollout manifest: ${reason}`);
}

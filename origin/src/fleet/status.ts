import { ANOMALY_KINDS } from '@sitecast/shared/api';
import { DEVICE_STATES } from '@sitecast/shared/fleet';
import { z } from 'zod';

/** Chains that are remembered of one device; a device begins a new one when it has lost its data. */
export const MAX_CHAINS = 8;
/** Oddities that are shown of one device; older ones make way. */
export const MAX_ANOMALIES = 16;

const chainSchema = z.object({
  epoch: z.string(),
  /** Every report up to this one is there. */
  seq: z.int().min(1),
  /** SHA-256 of the payload of that one. */
  head: z.string(),
  /** Of its first and its newest report, by the device's clock and then by the origin's. */
  firstAt: z.string(),
  lastAt: z.string(),
  begunAt: z.string(),
  receivedAt: z.string(),
  /** Timestamp version of its first report, where that says that reports of the chain before it were refused on their way. */
  toldAgainVersion: z.int().exactOptional(),
});
export type Chain = z.infer<typeof chainSchema>;

const anomalySchema = z.object({
  kind: z.enum(ANOMALY_KINDS),
  at: z.string(),
  epoch: z.string(),
  seq: z.int(),
});
export type Anomaly = z.infer<typeof anomalySchema>;

const releaseSchema = z.object({ counter: z.int(), version: z.string() });

const lastReportSchema = z.object({
  state: z.enum(DEVICE_STATES),
  epoch: z.string(),
  seq: z.int(),
  /** The device's clock. */
  at: z.string(),
  /** The origin's. */
  receivedAt: z.string(),
  timestampVersion: z.int(),
  rollout: z.object({ id: z.string(), attempt: z.int() }).exactOptional(),
  release: releaseSchema.exactOptional(),
  booted: z.object({ slot: z.enum(['A', 'B']), release: releaseSchema.exactOptional() }).exactOptional(),
  reason: z.object({ code: z.string(), message: z.string() }).exactOptional(),
  /** The gateway that brought it; not there where the device came itself. */
  via: z.string().exactOptional(),
});
export type LastReport = z.infer<typeof lastReportSchema>;

/** Reports of one member that are kept to be looked at. */
const keptReportsSchema = z.object({
  reports: z.int(),
  /** What they take in the database. */
  bytes: z.int(),
  /** Older ones that made way. */
  dropped: z.int(),
});
export type KeptReports = z.infer<typeof keptReportsSchema>;

/** What reports have told of one member. */
export const statusSchema = z.object({
  id: z.string(),
  /** In the order of their beginnings: the last one is the current one. */
  chains: z.array(chainSchema).min(1),
  last: lastReportSchema,
  anomalies: z.array(anomalySchema),
  /** How often a chain before the current one was taken up again. */
  returns: z.int(),
  /** When it was first suspected to be several machines with one key. */
  quarantinedAt: z.string().exactOptional(),
  /** Not there until they have been counted: earlier versions didn't. */
  kept: keptReportsSchema.exactOptional(),
});
export type Status = z.infer<typeof statusSchema>;

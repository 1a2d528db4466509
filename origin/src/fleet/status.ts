import { ANOMALY_KINDS } from '@sitecast/shared/api';
import { DEVICE_STATES } from '@sitecast/shared/fleet';
import { z } from 'zod';

/** Chains that are remembered of one device; a device begins a new one when it has lost its data. */
export const MAX_CHAINS = 8;
/** Anomalies that are kept of one device; older ones make way. */
export const MAX_ANOMALIES = 16;

const chainSchema = z.object({
  epoch: z.string(),
  /** Every report up to this number has come. */
  seq: z.int().min(1),
  /** SHA-256 of the payload of the report with that number. */
  head: z.string(),
  /** Times of its first and its newest report, by the device's clock and then by the origin's. */
  firstAt: z.string(),
  lastAt: z.string(),
  begunAt: z.string(),
  receivedAt: z.string(),
  /** Timestamp version of its first report, where that report says that reports of the chain before were refused on their way. */
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
  /** The gateway that brought it; absent where the device sent it directly. */
  via: z.string().exactOptional(),
});
export type LastReport = z.infer<typeof lastReportSchema>;

/** Reports of one member that are kept to be looked at. */
const keptReportsSchema = z.object({
  reports: z.int(),
  /** What they take in the database, bytes. */
  bytes: z.int(),
  /** Older reports that made way. */
  dropped: z.int(),
});
export type KeptReports = z.infer<typeof keptReportsSchema>;

/** What a member's reports have told. */
export const statusSchema = z.object({
  id: z.string(),
  /** In the order of their beginnings: the last one is the current one. */
  chains: z.array(chainSchema).min(1),
  last: lastReportSchema,
  anomalies: z.array(anomalySchema),
  /** How often a chain before the current one went on. */
  returns: z.int(),
  /** When the member was first suspected to be several machines with one key. */
  quarantinedAt: z.string().exactOptional(),
  /** Absent until they are counted: earlier versions didn't count them. */
  kept: keptReportsSchema.exactOptional(),
});
export type Status = z.infer<typeof statusSchema>;

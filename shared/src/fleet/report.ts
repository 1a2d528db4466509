import { z } from 'zod';
import {
  type Envelope,
  type EnvelopeSigner,
  type Identity,
  readEnvelope,
  sealEnvelope,
  type UnverifiedDocument,
  verifyByKeys,
} from '../identity/index.ts';
import type { RoleSigners } from '../trust/index.ts';
import { idSchema, instantSchema, releaseRefSchema, rolloutIdSchema, sha256Schema } from './fields.ts';

/** What an agent is doing. */
export const DEVICE_STATES = [
  'idle',
  'checking',
  'downloading',
  'verifying',
  'installing',
  'rebooting',
  'confirming',
  'completed',
  'failed',
  'rolledBack',
  'blocked',
  'waiting',
  'clockSuspect',
] as const;
export type DeviceState = (typeof DEVICE_STATES)[number];

const epochSchema = z.string().regex(/^[0-9a-f]{16}$/);
/** Code of a chain's first report, if reports of the chain before were refused on their way. */
export const TOLD_AGAIN = 'SITECAST_REPORTS_TOLD_AGAIN';

export const MAX_CODE_CHARS = 64;
export const MAX_MESSAGE_CHARS = 1024;
export const MAX_INVENTORY = 64;
export const MAX_INVENTORY_NAME_CHARS = 64;
export const MAX_INVENTORY_VALUE_CHARS = 256;

const reasonSchema = z.looseObject({
  /** `SITECAST_…`, or a word such as healthFailed, bootCountExhausted, powerLoss. */
  code: z.string().max(MAX_CODE_CHARS),
  message: z.string().max(MAX_MESSAGE_CHARS),
});

const transferSchema = z.looseObject({
  plannedBytes: z.int().min(0).optional(),
  /** True: the plan knew no lengths of compressed chunks, so it takes at most that. */
  isPlanAtMost: z.boolean().optional(),
  spentBytes: z.int().min(0),
});

/** A report as readers of all releases take it. */
export const reportSchema = z.looseObject({
  format: z.literal('sitecast-report-1'),
  id: idSchema,
  /** Random id of the chain. A device that lost its data begins a new chain. */
  epoch: epochSchema,
  /** From 1, without gaps. */
  seq: z.int().min(1),
  /** SHA-256 of the payload of the report before; null in the first. */
  previous: sha256Schema.nullable(),
  /** The device's own clock. */
  at: instantSchema,
  /** Version of the timestamp metadata that the device trusts. It shows whether a site is held at old metadata. */
  timestampVersion: z.int().min(0),
  state: z.enum(DEVICE_STATES),
  rollout: z.looseObject({ id: rolloutIdSchema, attempt: z.int().min(1) }).optional(),
  /** The release that the state is about. */
  release: releaseRefSchema.optional(),
  /** What runs: slot and release. */
  booted: z
    .looseObject({
      slot: z.enum(['A', 'B']),
      release: releaseRefSchema.optional(),
      /** False: it is on trial, or not known to be good. Devices of earlier releases never say it. */
      isConfirmed: z.boolean().optional().catch(undefined),
    })
    .optional(),
  reason: reasonSchema.optional(),
  /**
   * What the release has cost the device over the network until now, and what it was to cost in all by the plan that its download began
   * with. Readers of earlier releases pass over it. A form that isn't known is no reason to refuse a report.
   */
  transfer: transferSchema.optional().catch(undefined),
  inventory: z
    .record(
      z.string().max(MAX_INVENTORY_NAME_CHARS),
      z.union([z.string().max(MAX_INVENTORY_VALUE_CHARS), z.number(), z.boolean()]),
    )
    .refine(entries => Object.keys(entries).length <= MAX_INVENTORY)
    .optional(),
});
export type Report = z.infer<typeof reportSchema>;

export function sealReport(report: Report, identity: Identity): Promise<Envelope> {
  return sealEnvelope('report', report, [{ keyId: identity.id, sign: bytes => identity.sign(bytes) }]);
}

/** Agents of the first release sign the time of their clock, even beyond the year 9999. */
const signedReportSchema = reportSchema.extend({
  at: z.string().transform(plainInstant).pipe(instantSchema),
});

/**
 * Reads a report whose signature must be made by `document.id`. Agents of the first release cut texts within surrogate pairs: the
 * halves are replaced.
 * @throws SITECAST_DOCUMENT_MALFORMED
 */
export function readReport(envelope: unknown): UnverifiedDocument<Report> {
  return readEnvelope(envelope, 'report', signedReportSchema, 'replace');
}

/** An instant as `Date` writes it, limited to the years 0 to 9999 of RFC 3339. */
export function plainInstant(at: string): string {
  if (/^\+\d{6}-/.test(at)) return '9999-12-31T23:59:59.999Z';
  return /^-\d{6}-/.test(at) ? '0000-01-01T00:00:00.000Z' : at;
}

/** The origin's statement that every report of a chain up to `seq` is durable. Signed with the `rollouts` role's key. */
const acknowledgementSchema = z.looseObject({
  format: z.literal('sitecast-acknowledgement-1'),
  id: idSchema,
  epoch: epochSchema,
  seq: z.int().min(0),
  /** Of the payload of report `seq`. A clone that sent another report in its place learns of it. Absent: 0 reports, or an origin of 0.1. */
  reportSha256: sha256Schema.optional(),
  at: instantSchema,
});
export type Acknowledgement = z.infer<typeof acknowledgementSchema>;

export function sealAcknowledgement(
  acknowledgement: Acknowledgement,
  signer: EnvelopeSigner,
): Promise<Envelope> {
  return sealEnvelope('acknowledgement', acknowledgement, [signer]);
}

/** @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED */
export function openAcknowledgement(envelope: unknown, signers: RoleSigners): Acknowledgement {
  const unverified = readEnvelope(envelope, 'acknowledgement', acknowledgementSchema);
  return unverified.verifyAny(signers.keyids, verifyByKeys(signers.keys));
}

import { z } from 'zod';
import { idSchema, rolloutIdSchema, siteSchema } from '../fleet/fields.ts';
import { DEVICE_STATES } from '../fleet/report.ts';
import { envelopeSchema } from '../identity/index.ts';
import { named } from './schemas.ts';

// The bodies of /site/v1: devices speak it to a gateway, gateways to the origin. Where the two servers answer differently, each has
// its own schema.

/** Bytes of a request body at the origin. */
export const MAX_SITE_BODY_BYTES = 1024 * 1024;
/** Reports in one request, at the origin and at a gateway. */
export const MAX_REPORTS_PER_REQUEST = 200;
/** Devices whose progress one request tells: at the origin, and at a gateway. */
export const MAX_PROGRESS_PER_REQUEST = 1000;
export const MAX_PROGRESS_PER_GATEWAY_REQUEST = 200;
const MAX_ID_CHARS = 64;

/** An envelope that a gateway passes on. The side that it is for reads it strictly. */
const relayedEnvelopeSchema = named(
  'Envelope',
  z.looseObject({
    payload: z.string(),
    payloadType: z.string(),
    signatures: z.array(z.looseObject({ keyid: z.string(), sig: z.string() })),
  }),
);

/** POST /site/v1/enrolments */
export const enrolmentRequestSchema = z.object({ envelope: envelopeSchema });
/** 200: the sender is enrolled. GET /site/v1/assignments/ID answers the same. */
export const assignmentAnswerSchema = z.object({ assignment: envelopeSchema });
/** The same at a gateway. */
export const relayedEnrolmentRequestSchema = z.object({ envelope: relayedEnvelopeSchema });
export const relayedAssignmentAnswerSchema = z.object({ assignment: relayedEnvelopeSchema });
/** 202: the sender waits for an operator. */
export const pendingAnswerSchema = z.object({ state: z.literal('pending') });

/** GET /site/v1/acknowledgements/ID */
export const acknowledgementAnswerSchema = z.object({ acknowledgement: envelopeSchema });
/** The same at a gateway. */
export const relayedAcknowledgementAnswerSchema = z.object({ acknowledgement: relayedEnvelopeSchema });

/** POST /site/v1/reports. The server reads each report by itself: an invalid one doesn't keep the others back. */
export const reportsRequestSchema = z.object({
  reports: z.array(z.unknown()).min(1).max(MAX_REPORTS_PER_REQUEST),
});

/** A report that the origin refuses. */
export const rejectedReportSchema = z.object({
  /** Its place in the request. */
  index: z.int(),
  id: z.string().optional(),
  epoch: z.string().optional(),
  seq: z.int().optional(),
  code: z.string(),
  /** Seconds until the device may send it again: the device has used up its budget for now. */
  retryAfterS: z.int().optional(),
});

/** The origin's answer: the reports are durable. */
export const reportsAnswerSchema = z.object({
  /** One for each chain of reports in the request. */
  acknowledgements: z.array(envelopeSchema),
  rejected: z.array(rejectedReportSchema),
});

/** A report that a gateway refuses, or that the origin refused after the gateway had taken it. */
export const gatewayRejectedReportSchema = z.object({
  /** Its place in this request. */
  index: z.int().optional(),
  /** Of one that the origin refused: its chain, its number, and the first digits of its SHA-256. */
  epoch: z.string().optional(),
  seq: z.int().optional(),
  digest: z.string().optional(),
  code: z.string(),
  /** As `rejectedReportSchema` has it. */
  retryAfterS: z.int().optional(),
});

/** A gateway's answer: the reports are durable there, and go on to the origin. */
export const gatewayReportsAnswerSchema = z.object({
  /** The origin's newest acknowledgement that this gateway has, if any. */
  acknowledgement: relayedEnvelopeSchema.optional(),
  rejected: z.array(gatewayRejectedReportSchema).optional(),
});

/** How far one device's download has got. Nobody signs it; it is for people to look at. */
export const progressSchema = z.object({
  id: idSchema,
  rollout: rolloutIdSchema.optional(),
  state: z.enum(DEVICE_STATES),
  doneBytes: z.int().min(0),
  totalBytes: z.int().min(0),
  at: z.iso.datetime(),
});

/** POST /site/v1/progress. The origin reads each entry by itself: one device's invalid entry doesn't keep the others' out. */
export const progressRequestSchema = z.object({
  progress: z.array(z.unknown()).max(MAX_PROGRESS_PER_REQUEST),
});

/** The same at a gateway, which takes only what the device itself says. */
export const gatewayProgressRequestSchema = z.object({
  progress: z
    .array(
      z.object({
        ...progressSchema.shape,
        id: z.string().max(MAX_ID_CHARS),
        rollout: z
          .string()
          .regex(/^[0-9a-f]{16}$/)
          .optional(),
        doneBytes: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
        totalBytes: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
      }),
    )
    .min(1)
    .max(MAX_PROGRESS_PER_GATEWAY_REQUEST),
});

/** GET /site/v1/ways/PRODUCT/FROM/TO, which gateways alone serve: how devices that run FROM are to come to TO, for the sake of the site's WAN. */
export const siteWaySchema = z.object({ way: z.enum(['deltas', 'chunks']) });

/** POST /site/v1/leases, which gateways alone serve: a device asks for leave to be down. */
export const leaseRequestSchema = z.object({
  id: z.string().max(MAX_ID_CHARS),
  rollout: z.string().regex(/^[0-9a-f]{16}$/),
  action: z.enum(['take', 'renew', 'return']),
});
/** A device that holds a lease. */
export const leaseHolderSchema = z.object({
  id: z.string(),
  name: z.string().optional(),
  until: z.iso.datetime(),
});
export const leaseAnswerSchema = z.object({
  granted: z.boolean(),
  /** When a granted lease ends. */
  until: z.iso.datetime().optional(),
  /** When to ask again. */
  retryAfterMs: z.int().optional(),
  /** The devices that hold the leases now. */
  heldBy: z.array(leaseHolderSchema).optional(),
});

/** GET /site/v1/gateway, which gateways alone serve: who answers at this address. */
export const gatewayIdentitySchema = z.object({ id: idSchema, site: siteSchema.optional() });

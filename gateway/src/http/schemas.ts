import { z } from '@hono/zod-openapi';
import { DEVICE_STATES } from '@sitecast/shared/fleet';
import { MAX_REPORTS } from '../reports/report-receiver.ts';
import { MAX_PROGRESS } from '../reports/progress-relay.ts';
import { problemSchema } from './problem.ts';

export const JSON_TYPE = 'application/json';
export const BYTES_TYPE = 'application/octet-stream';
const MAX_ID_CHARS = 64;
const MAX_BYTES_FIELD = Number.MAX_SAFE_INTEGER;

export const problem = (description: string) => ({
  description,
  content: { 'application/problem+json': { schema: problemSchema } },
});

/** A DSSE envelope; whoever it's for reads it strictly. */
export const envelopeBody = z
  .looseObject({
    payload: z.string(),
    payloadType: z.string(),
    signatures: z.array(z.looseObject({ keyid: z.string(), sig: z.string() })),
  })
  .openapi('Envelope');

export const bytesSchema = z.string().openapi({ type: 'string', format: 'binary' });

export const idParams = z.object({
  id: z
    .string()
    .max(MAX_ID_CHARS)
    .regex(/^[1-9A-HJ-NP-Za-km-z]+$/)
    .openapi({ param: { name: 'id', in: 'path' } }),
});

export const enrolmentBody = z.object({ envelope: envelopeBody });
/** Each report is read for itself: one that is none mustn't keep the others back. */
export const reportsBody = z.object({ reports: z.array(z.unknown()).min(1).max(MAX_REPORTS) });
/**
 * `index`: in this request; `epoch`, `seq` and the first digits of its SHA-256: one that the origin refused; `retryAfterS`: it's for
 * later, in so many seconds.
 */
export const rejectedBody = z.object({
  index: z.int().optional(),
  epoch: z.string().optional(),
  seq: z.int().optional(),
  digest: z.string().optional(),
  code: z.string(),
  retryAfterS: z.int().optional(),
});
export const progressBody = z.object({
  progress: z
    .array(
      z.object({
        id: z.string().max(MAX_ID_CHARS),
        rollout: z
          .string()
          .regex(/^[0-9a-f]{16}$/)
          .optional(),
        state: z.enum(DEVICE_STATES),
        doneBytes: z.int().min(0).max(MAX_BYTES_FIELD),
        totalBytes: z.int().min(0).max(MAX_BYTES_FIELD),
        at: z.iso.datetime(),
      }),
    )
    .min(1)
    .max(MAX_PROGRESS),
});
export const leaseBody = z.object({
  id: z.string().max(MAX_ID_CHARS),
  rollout: z.string().regex(/^[0-9a-f]{16}$/),
  action: z.enum(['take', 'renew', 'return']),
});

const PROBLEMS = {
  400: problem('The request is invalid.'),
  401: problem('The signature of the request is missing, wrong, too old or was here before.'),
  403: problem('Not yours, or revoked.'),
  404: problem('There is no such thing.'),
  409: problem('In conflict with what is there.'),
  413: problem('Too large.'),
  415: problem('Not JSON.'),
  422: problem('A signature is wrong.'),
  429: problem('Too many requests.'),
  500: problem('The gateway failed.'),
  503: problem('Busy, or no upstream can be reached: try again.'),
  507: problem('No space left: keep it, and try again.'),
};

/** The responses that any route of the site API can give. */
export function withProblems<T extends Record<number, object>>(responses: T) {
  return { ...responses, ...PROBLEMS };
}

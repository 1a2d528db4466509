import { z } from 'zod';
import {
  type Envelope,
  type Identity,
  readEnvelope,
  sealEnvelope,
  type UnverifiedDocument,
} from '../identity/index.ts';
import { nameSchema } from '../release/index.ts';
import type { KeyPair } from '../signing/index.ts';
import { idSchema, memberNameSchema, siteSchema } from './fields.ts';

/**
 * A newcomer's request to be known. Signed by its own key always, and by the join token's key where it has one:
 * whoever relays it can neither put another id in nor use the token again.
 */
const enrolmentSchema = z.looseObject({
  format: z.literal('sitecast-enrolment-1'),
  id: idSchema,
  /** Random, 32 hexadecimal digits: a token that is good for several newcomers counts each request once. */
  nonce: z.string().regex(/^[0-9a-f]{32}$/),
  kind: z.enum(['device', 'gateway']),
  /** What it wants to be called. A wish: one that can't be a name costs nobody the enrolment. */
  name: memberNameSchema.optional().catch(undefined),
  /** A device's. */
  product: nameSchema.optional(),
  hardware: nameSchema.optional(),
  /** A gateway's: the site that it serves. */
  site: siteSchema.optional(),
  /** Key id of the join token, if there's one. */
  token: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
});
export type Enrolment = z.infer<typeof enrolmentSchema>;

export function sealEnrolment(
  enrolment: Enrolment,
  identity: Identity,
  token: KeyPair | undefined,
): Promise<Envelope> {
  const own = { keyId: identity.id, sign: (bytes: Uint8Array) => identity.sign(bytes) };
  return sealEnvelope('enrolment', enrolment, token ? [own, token] : [own]);
}

/** @throws SITECAST_DOCUMENT_MALFORMED */
export function readEnrolment(envelope: unknown): UnverifiedDocument<Enrolment> {
  return readEnvelope(envelope, 'enrolment', enrolmentSchema);
}

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
 * The request of a device or gateway to join. Its own key always signs it, and so does the key of the join token where it has one. So a
 * gateway that relays it can neither enrol another id nor use the token again.
 */
const enrolmentSchema = z.looseObject({
  format: z.literal('sitecast-enrolment-1'),
  id: idSchema,
  /** Random, 32 hexadecimal digits. It lets a token for several devices count each request once. */
  nonce: z.string().regex(/^[0-9a-f]{32}$/),
  kind: z.enum(['device', 'gateway']),
  /** The requested name. An invalid one is dropped, and the enrolment continues without it. */
  name: memberNameSchema.optional().catch(undefined),
  /** The product of a device. */
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

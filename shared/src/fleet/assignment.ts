import { z } from 'zod';
import {
  type Envelope,
  type EnvelopeSigner,
  readEnvelope,
  sealEnvelope,
  verifyByKeys,
} from '../identity/index.ts';
import { nameSchema } from '../release/index.ts';
import type { RoleSigners } from '../trust/index.ts';
import { idSchema, instantSchema, memberNameSchema, siteSchema, tagsSchema } from './fields.ts';

/** The origin's statement what a device or gateway is, signed with the `rollouts` role's key. */
const assignmentSchema = z.looseObject({
  format: z.literal('sitecast-assignment-1'),
  id: idSchema,
  kind: z.enum(['device', 'gateway']),
  /** What people call it. One that a later origin gives and this reader can't take is as good as none. */
  name: memberNameSchema.optional().catch(undefined),
  product: nameSchema.optional(),
  hardware: nameSchema.optional(),
  site: siteSchema,
  tags: tagsSchema,
  /** Rises with each change: of two, the higher holds. */
  serial: z.int().min(1),
  enrolledAt: instantSchema,
  issuedAt: instantSchema,
  /**
   * Until when machines of the fleet serve chunks to whoever shows it. The origin issues a new one long before. Nothing else ends with it.
   * Origins up to 0.1 give none; with one of those it doesn't end.
   */
  expiresAt: instantSchema.optional(),
  revoked: z.boolean().optional(),
});
export type Assignment = z.infer<typeof assignmentSchema>;

/** Whether `next` replaces `held`, both about one id. With the same serial the later one does: then the origin was restored from a backup. */
export function supersedes(next: Assignment, held: Assignment): boolean {
  if (next.serial !== held.serial) return next.serial > held.serial;
  return Date.parse(next.issuedAt) > Date.parse(held.issuedAt);
}

export function sealAssignment(assignment: Assignment, signer: EnvelopeSigner): Promise<Envelope> {
  return sealEnvelope('assignment', assignment, [signer]);
}

/**
 * @param signers who may sign for the `rollouts` role now, by the trusted targets metadata
 * @throws SITECAST_DOCUMENT_MALFORMED, SITECAST_DOCUMENT_UNTRUSTED
 */
export function openAssignment(envelope: unknown, signers: RoleSigners): Assignment {
  return readEnvelope(envelope, 'assignment', assignmentSchema).verifyAny(
    signers.keyids,
    verifyByKeys(signers.keys),
  );
}

import { MEMBER_KINDS } from '@sitecast/shared/api';
import { type Assignment, idSchema, memberNameSchema, siteSchema, tagsSchema } from '@sitecast/shared/fleet';
import { nameSchema } from '@sitecast/shared/release';
import { z } from 'zod';

export type MemberKind = (typeof MEMBER_KINDS)[number];

/** A device or gateway that was let in: what its assignment says, and how it came. */
export const memberSchema = z.object({
  id: idSchema,
  kind: z.enum(MEMBER_KINDS),
  /** Given by an operator or a join token, or wished by the newcomer; unique among members that aren't revoked. */
  name: memberNameSchema.exactOptional(),
  product: nameSchema.exactOptional(),
  hardware: nameSchema.exactOptional(),
  site: siteSchema,
  // An earlier version took text that no assignment can carry.
  tags: tagsSchema.transform(wellFormed),
  /** Rises with each change of what the assignment says. */
  serial: z.int().min(1),
  enrolledAt: z.iso.datetime(),
  /** When the assignment last changed, or was renewed. */
  changedAt: z.iso.datetime(),
  /** Until when the assignment holds. Versions up to 0.1 gave it no end. */
  expiresAt: z.iso.datetime().exactOptional(),
  revokedAt: z.iso.datetime().exactOptional(),
  /** Id of the join token, or name of the operator's API token. */
  letInBy: z.union([z.object({ joinToken: z.string() }), z.object({ operator: z.string() })]),
});
export type Member = z.infer<typeof memberSchema>;

function wellFormed(tags: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(tags).map(([name, value]) => [name, value.toWellFormed()]));
}

/** The assignment that the origin signs. It is the same for the same serial. */
export function assignmentOf(member: Member): Assignment {
  const {
    id,
    kind,
    name,
    product,
    hardware,
    site,
    tags,
    serial,
    enrolledAt,
    changedAt,
    expiresAt,
    revokedAt,
  } = member;
  return {
    format: 'sitecast-assignment-1',
    id,
    kind,
    ...(name !== undefined && { name }),
    ...(product !== undefined && { product }),
    ...(hardware !== undefined && { hardware }),
    site,
    tags,
    serial,
    enrolledAt,
    issuedAt: changedAt,
    ...(expiresAt !== undefined && { expiresAt }),
    ...(revokedAt !== undefined && { revoked: true }),
  };
}

/** The member with another name. @param name undefined: none */
export function withName({ name: _before, ...member }: Member, name: string | undefined): Member {
  return { ...member, ...(name !== undefined && { name }) };
}

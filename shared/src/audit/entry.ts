import { createHash } from 'node:crypto';
import { z } from 'zod';

/** Prepended to the hashed bytes, so that the hash of another document is never one of an entry. */
const DOMAIN = 'sitecast-audit-1\n';

const hashSchema = z.string().regex(/^[0-9a-f]{64}$/);

/** One action at the origin, chained to the entry before. */
export const auditEntrySchema = z.strictObject({
  /** From 1, without gaps. */
  seq: z.int().min(1),
  /** The origin's clock, RFC 3339. */
  at: z.iso.datetime(),
  /** Name of the API token, or `origin`. */
  by: z.string(),
  /** `rollout.start`, `device.revoke`, `release.publish`, … */
  action: z.string(),
  /** `rollout:ID`, `device:ID`, `release:PRODUCT/VERSION`, … */
  subject: z.string(),
  details: z.record(z.string(), z.unknown()).exactOptional(),
  /** Hash of the entry before; null in the first. */
  previous: hashSchema.nullable(),
  /** SHA-256 over all of the above, hex. */
  hash: hashSchema,
});
export type AuditEntry = z.infer<typeof auditEntrySchema>;

/** The end of a log, now or when it was noted. Before the first entry it is seq 0, without a hash. */
export interface AuditHead {
  seq: number;
  hash: string | null;
}

export const EMPTY_HEAD: AuditHead = { seq: 0, hash: null };

/** SHA-256 of an entry's canonical bytes (RFC 8785, JSON Canonicalization Scheme), without its `hash`. */
export function hashOfEntry(entry: Omit<AuditEntry, 'hash'> & { hash?: string }): string {
  const { hash: _hash, ...rest } = entry;
  return createHash('sha256')
    .update(DOMAIN + canonical(rest))
    .digest('hex');
}

/** RFC 8785: members sorted by UTF-16 code units, numbers and strings as ECMAScript writes them. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value)
    .sort(([one], [other]) => (one < other ? -1 : 1))
    .map(([name, member]) => `${JSON.stringify(name)}:${canonical(member)}`);
  return `{${members.join(',')}}`;
}

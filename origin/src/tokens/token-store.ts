import { TOKEN_ROLES } from '@sitecast/shared/api';
import { z } from 'zod';
import type { AuditEvent } from '../audit/audit.ts';

/** What a token allows, in rising order: each role may do all that the ones before it may. */
export type TokenRole = (typeof TOKEN_ROLES)[number];

/** What is kept of a token: never the token itself. */
export const storedTokenSchema = z.object({
  id: z.string(),
  name: z.string(),
  role: z.enum(TOKEN_ROLES),
  /** SHA-256 of the whole token, hex. A hash without stretching is enough for 256 random bits. */
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  /** RFC 3339, as is `expiresAt`. */
  createdAt: z.string(),
  expiresAt: z.string().exactOptional(),
});
export type StoredToken = z.infer<typeof storedTokenSchema>;

/** A token that comes or goes, and the audit entry that tells of it. */
export interface TokenChange {
  add?: StoredToken;
  /** Its id. */
  revoke?: string;
  event: AuditEvent;
}

/** Where the first admin's token waits for the operator: the one token that is kept itself. The origin that has the lead calls it. */
export interface AdminTokenPlace {
  /**
   * Keeps a token durably, in the place of the one before.
   * @returns where it is, in words for the operator
   */
  keep(token: string): Promise<string>;
}

/** Where API tokens are kept. */
export interface TokenStore {
  /** All tokens, as far as this origin knows them by now; no disk is asked. */
  tokens(): readonly StoredToken[];
  /**
   * Changes tokens in one step: no other change comes between what `decide` is shown and what it decides, from this origin or from another.
   * The change and its audit entry are durable when this resolves, both or neither.
   * @param decide what it throws is thrown here, and nothing is changed
   * @throws SITECAST_NO_SPACE, SITECAST_STATE_UNWRITABLE
   */
  change(decide: (tokens: readonly StoredToken[]) => TokenChange): Promise<void>;
}

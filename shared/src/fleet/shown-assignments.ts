import { createHash } from 'node:crypto';
import { SitecastError } from '../errors.ts';
import type { RoleSigners } from '../trust/index.ts';
import { type Assignment, openAssignment } from './assignment.ts';
import { lruCache } from '../bounded/lru-cache.ts';

// Anyone on the LAN can send this. The worst is any number of assignments, each with a signature to verify (two thousandths of a second).
// The bound of connections per second bounds that.

/** The header in which a member shows its assignment to a neighbour: the signed envelope as JSON, in base64. */
export const ASSIGNMENT_HEADER = 'sitecast-assignment';
/** The longest assignment in that header. */
const MAX_SHOWN_CHARS = 8192;

/** What a member sends to a neighbour over HTTP to show who it is. @param credential its signed assignment; undefined before it has one */
export function showing(credential: Uint8Array | undefined): Record<string, string> {
  return credential === undefined ? {} : { [ASSIGNMENT_HEADER]: Buffer.from(credential).toString('base64') };
}

/** The assignment that a request shows, not verified yet; undefined where it shows none. */
export function shownIn(headers: Readonly<Record<string, unknown>>): Uint8Array | undefined {
  const text = headers[ASSIGNMENT_HEADER];
  if (typeof text !== 'string' || text.length > MAX_SHOWN_CHARS) return undefined;
  return Buffer.from(text, 'base64');
}

/** Verified credentials that are remembered. */
const MAX_OPENED = 256;

interface Shown {
  /** The id that the connection has proved. */
  id: string;
  /** The presented assignment, as the origin signed it. */
  credential: Uint8Array;
}

/** What the trusted metadata says. */
interface TrustedMetadata {
  /** Who signs assignments now. */
  signers: RoleSigners;
  /**
   * When the trusted timestamp was signed, milliseconds since 1970. By this it is told whether an assignment has ended: no clock is asked,
   * and a site that is cut off goes on. Undefined where the timestamp doesn't say it: then none has ended.
   */
  issuedMs: number | undefined;
}

/** Recognises members of the fleet by the assignments that they show: to whom chunks are served. */
export class ShownAssignments {
  readonly #opened = lruCache<string, { signers: RoleSigners; assignment: Assignment }>({
    max: MAX_OPENED,
  });

  /**
   * Whether the assignment belongs to this id and this site, and hasn't ended. The caller must check whether it was revoked since.
   * @returns the assignment; undefined if it doesn't belong, or has ended
   */
  memberOf(site: string, shown: Shown, trusted: TrustedMetadata): Assignment | undefined {
    const its = this.assignmentOf(shown, trusted);
    return its?.site === site ? its : undefined;
  }

  /** The same, for a member of any site. */
  assignmentOf({ id, credential }: Shown, { signers, issuedMs }: TrustedMetadata): Assignment | undefined {
    try {
      const its = this.#open(credential, signers);
      return its.id === id && its.revoked !== true && !hasEnded(its, issuedMs) ? its : undefined;
    } catch (error) {
      if (error instanceof SitecastError || error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  /** Peers connect again every half minute with the same assignment. */
  #open(credential: Uint8Array, signers: RoleSigners): Assignment {
    const key = createHash('sha256').update(credential).digest('hex');
    const opened = this.#opened.get(key);
    if (opened?.signers === signers) return opened.assignment;
    const text = Buffer.from(credential).toString('utf8');
    const assignment = openAssignment(JSON.parse(text), signers);
    this.#opened.set(key, { signers, assignment });
    return assignment;
  }
}

function hasEnded({ expiresAt }: Assignment, issuedMs: number | undefined): boolean {
  return expiresAt !== undefined && issuedMs !== undefined && Date.parse(expiresAt) <= issuedMs;
}

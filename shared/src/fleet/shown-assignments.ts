import { createHash } from 'node:crypto';
import { SitecastError } from '../errors.ts';
import type { RoleSigners } from '../trust/index.ts';
import { type Assignment, openAssignment } from './assignment.ts';
import { lruCache } from '../bounded/lru-cache.ts';

// Who can send this: anybody on the LAN. The worst message: assignments without end, each of them a signature to check (two
// thousandths of a second); how many connections there may be in a second bounds that.

/** Verified credentials that are remembered. */
const MAX_OPENED = 256;

interface Shown {
  /** Which the connection has proved. */
  id: string;
  /** What it shows: an assignment as the origin signed it. */
  credential: Uint8Array;
}

/** Whom machines of a site hand chunks to: those whose assignment names the same site, as the origin signed it. */
export class ShownAssignments {
  readonly #opened = lruCache<string, { signers: RoleSigners; assignment: Assignment }>({
    max: MAX_OPENED,
  });

  /**
   * Whether who shows this is a device or gateway of the site. That it was revoked since is the caller's to know.
   * @param signers who signs assignments now
   * @returns what the origin says of it; undefined for anybody else
   */
  memberOf(site: string, { id, credential }: Shown, signers: RoleSigners): Assignment | undefined {
    try {
      const its = this.#open(credential, signers);
      return its.id === id && its.site === site && its.revoked !== true ? its : undefined;
    } catch (error) {
      if (error instanceof SitecastError || error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  /** Peers come again every half minute with what they have shown before. */
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

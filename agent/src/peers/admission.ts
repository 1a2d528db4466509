import { SitecastError } from '@sitecast/shared/errors';
import { sha256 } from '@sitecast/shared/content';
import { type Assignment, openAssignment } from '@sitecast/shared/fleet';
import type { RoleSigners } from '@sitecast/shared/trust';
import { LRUCache } from 'lru-cache';
import type { Membership } from '../site/membership.ts';
import type { Trust } from '../site/trust.ts';

// Who can send this: anybody on the LAN. The worst message: assignments without end, each of them a signature to check (two
// thousandths of a second); how many connections there may be in a second bounds that.

/** Verified credentials that are remembered. */
const MAX_OPENED = 256;

/** Whom this device hands chunks to: those whose assignment names this site, as the origin signed it. */
export class Admission {
  readonly #trust: Pick<Trust, 'signers'>;
  readonly #membership: Pick<Membership, 'stored'>;
  readonly #opened = new LRUCache<string, { signers: RoleSigners; assignment: Assignment }>({
    max: MAX_OPENED,
  });
  #revoked: ReadonlySet<string> = new Set();

  constructor(trust: Pick<Trust, 'signers'>, membership: Pick<Membership, 'stored'>) {
    this.#trust = trust;
    this.#membership = membership;
  }

  /** Peers come again every half minute with what they have shown before. */
  #open(credential: Uint8Array, signers: RoleSigners): Assignment {
    const key = sha256(credential).toString('hex');
    const opened = this.#opened.get(key);
    if (opened?.signers === signers) return opened.assignment;
    const text = Buffer.from(credential).toString('utf8');
    const assignment = openAssignment(JSON.parse(text), signers);
    this.#opened.set(key, { signers, assignment });
    return assignment;
  }

  /** @returns those who were not revoked before */
  follow(revoked: readonly string[]): string[] {
    const before = this.#revoked;
    this.#revoked = new Set(revoked);
    return revoked.filter(id => !before.has(id));
  }

  /** @param id which the connection has proved; @param credential what it shows: a signed assignment */
  mayServe(id: string, credential: Uint8Array): boolean {
    const { signers } = this.#trust;
    if (!signers || this.#revoked.has(id)) return false;
    const own = this.#membership.stored(signers);
    if (!own || own.revoked === true) return false;
    try {
      const its = this.#open(credential, signers);
      return its.id === id && its.site === own.site && its.revoked !== true;
    } catch (error) {
      if (error instanceof SitecastError || error instanceof SyntaxError) return false;
      throw error;
    }
  }
}

import { SitecastError } from '@sitecast/shared/errors';
import { openAssignment } from '@sitecast/shared/fleet';
import type { Membership } from '../site/membership.ts';
import type { Trust } from '../site/trust.ts';

// Who can send this: anybody on the LAN. The worst message: assignments without end, each of them a signature to check (two
// thousandths of a second); how many connections there may be in a second bounds that.

/** Whom this device hands chunks to: those whose assignment names this site, as the origin signed it. */
export class Admission {
  readonly #trust: Pick<Trust, 'signers'>;
  readonly #membership: Pick<Membership, 'stored'>;
  #revoked: ReadonlySet<string> = new Set();

  constructor(trust: Pick<Trust, 'signers'>, membership: Pick<Membership, 'stored'>) {
    this.#trust = trust;
    this.#membership = membership;
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
      const its = openAssignment(JSON.parse(Buffer.from(credential).toString('utf8')), signers);
      return its.id === id && its.site === own.site && its.revoked !== true;
    } catch (error) {
      if (error instanceof SitecastError || error instanceof SyntaxError) return false;
      throw error;
    }
  }
}

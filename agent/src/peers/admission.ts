import { ShownAssignments } from '@sitecast/shared/fleet';
import type { Membership } from '../upstream/membership.ts';
import type { Trust } from '../upstream/trust.ts';

/** Says which machines this device hands chunks to: devices and gateways of its site that weren't revoked. */
export class Admission {
  readonly #trust: Pick<Trust, 'signers'>;
  readonly #membership: Pick<Membership, 'stored'>;
  readonly #shown = new ShownAssignments();
  #revoked: ReadonlySet<string> = new Set();

  constructor(trust: Pick<Trust, 'signers'>, membership: Pick<Membership, 'stored'>) {
    this.#trust = trust;
    this.#membership = membership;
  }

  /** @returns the ids that were not revoked before */
  follow(revoked: readonly string[]): string[] {
    const before = this.#revoked;
    this.#revoked = new Set(revoked);
    return revoked.filter(id => !before.has(id));
  }

  /** @param id proved by the connection @param credential the peer's signed assignment */
  mayServe(id: string, credential: Uint8Array): boolean {
    const { signers } = this.#trust;
    if (!signers || this.#revoked.has(id)) return false;
    const own = this.#membership.stored(signers);
    if (!own || own.revoked === true) return false;
    return this.#shown.memberOf(own.site, { id, credential }, signers) !== undefined;
  }
}

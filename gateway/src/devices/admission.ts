import { type Assignment, ShownAssignments } from '@sitecast/shared/fleet';
import type { RoleSigners } from '@sitecast/shared/trust';

interface AdmissionDeps {
  /** The site that this gateway is assigned to; undefined before it is. */
  site: () => Promise<string | undefined>;
  /** The signers of assignments now. */
  signers: () => RoleSigners | undefined;
  /** When the trusted timestamp was signed. */
  issuedMs: () => number | undefined;
  /** The newest known assignment of a device. */
  assignmentOf: (id: string) => Promise<Assignment | undefined>;
  isRevoked: (id: string) => boolean;
  isOwnRevoked: () => boolean;
}

/**
 * Decides which devices this gateway serves over libp2p: those that show an assignment to this site, signed by the origin, not revoked and
 * not ended.
 */
export function admission(deps: AdmissionDeps): (id: string, credential: Uint8Array) => Promise<boolean> {
  const shown = new ShownAssignments();
  return async (id, credential) => {
    if (deps.isOwnRevoked() || deps.isRevoked(id)) return false;
    const [site, signers] = [await deps.site(), deps.signers()];
    const trusted = signers && { signers, issuedMs: deps.issuedMs() };
    const its = site !== undefined && trusted && shown.memberOf(site, { id, credential }, trusted);
    if (!its) return false;
    // The device may have been moved or revoked since the origin signed the assignment that it shows.
    const known = await deps.assignmentOf(id);
    return !known || known.serial <= its.serial || (known.site === site && known.revoked !== true);
  };
}

import type { Member } from './member.ts';
import type { Status } from './status.ts';

/** Versions of one product that are told apart: those that most devices run. */
const MAX_VERSIONS = 30;
/** Devices that haven't reported which release they run, or run one that they don't know. */
const UNKNOWN = 'unknown';
/** Devices that run none of the versions above. */
const OTHER = 'other';

/** How many devices of a product run a version. */
export interface VersionCount {
  product: string;
  version: string;
  devices: number;
}

/** How many devices there are, by product and version and by site: counted with each change of a member or of what it reports. */
export class Population {
  readonly #byProduct = new Map<string, Map<string, number>>();
  readonly #bySite = new Map<string, number>();

  /** A device came, changed, was revoked, or has reported. The cost doesn't depend on the fleet. */
  change(
    before: Member | undefined,
    wasRunning: Status | undefined,
    after: Member,
    runs: Status | undefined,
  ) {
    if (before) this.#count(before, wasRunning, -1);
    this.#count(after, runs, 1);
  }

  /** Devices of a site that aren't revoked. */
  devicesAt(site: string): number {
    return this.#bySite.get(site) ?? 0;
  }

  /** Devices that aren't revoked, by what they reported last: at most 32 versions of a product, since a device says what its version is called. */
  versions(): VersionCount[] {
    return Array.from(this.#byProduct, ([product, versions]) => {
      const known = [...versions].filter(([version]) => version !== UNKNOWN);
      const byDevices = known.sort(([, one], [, other]) => other - one);
      const others = byDevices.slice(MAX_VERSIONS).reduce((sum, [, devices]) => sum + devices, 0);
      const shown: [string, number][] = [
        ...byDevices.slice(0, MAX_VERSIONS),
        [UNKNOWN, versions.get(UNKNOWN) ?? 0],
        [OTHER, others],
      ];
      return shown
        .filter(([, devices]) => devices > 0)
        .map(([version, devices]) => ({ product, version, devices }));
    }).flat();
  }

  #count({ kind, product = '', site, revokedAt }: Member, status: Status | undefined, by: 1 | -1): void {
    if (kind !== 'device' || revokedAt !== undefined) return;
    add(this.#bySite, site, by);
    const versions = this.#byProduct.get(product) ?? new Map<string, number>();
    this.#byProduct.set(product, versions);
    add(versions, status?.last.booted?.release?.version ?? UNKNOWN, by);
    if (versions.size === 0) this.#byProduct.delete(product);
  }
}

function add(counts: Map<string, number>, key: string, by: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + by;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}

import type { Member } from './member.ts';
import type { Status } from './status.ts';

/** Versions of one product that are told apart: those that most devices run. */
const MAX_VERSIONS = 30;
/** Products that are told apart: those of most devices. Where a join token names none, a newcomer says what it is. */
const MAX_PRODUCTS = 100;
/** Devices that haven't reported which release they run, or run one that they don't know. No version is called so, nor any product. */
const UNKNOWN = '(unknown)';
/** Devices of other products than the ones above, or that run none of the versions above. */
const OTHER = '(other)';

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

  /**
   * Devices that aren't revoked, by what they reported last. What a device says that its version is called is shown where a rollout has
   * called one so, or another device, too: nobody who has stolen one can make up names.
   * @param isKnown whether a rollout has led to that version
   */
  versions(isKnown: (product: string, version: string) => boolean): VersionCount[] {
    const products = Array.from(this.#byProduct, ([product, versions]) => ({
      product,
      versions,
      devices: sum(versions),
    }));
    products.sort((one, other) => other.devices - one.devices);
    const others = products.slice(MAX_PRODUCTS).reduce((all, { devices }) => all + devices, 0);
    return [
      ...products
        .slice(0, MAX_PRODUCTS)
        .flatMap(({ product, versions }) => versionsOf(product, versions, isKnown)),
      { product: OTHER, version: OTHER, devices: others },
    ].filter(({ devices }) => devices > 0);
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

const sum = (counts: ReadonlyMap<string, number>): number =>
  [...counts.values()].reduce((all, count) => all + count, 0);

function versionsOf(
  product: string,
  versions: ReadonlyMap<string, number>,
  isKnown: (product: string, version: string) => boolean,
): VersionCount[] {
  const shown = Array.from(versions, ([version, devices]) => ({ product, version, devices }))
    .filter(({ version, devices }) => version !== UNKNOWN && (devices > 1 || isKnown(product, version)))
    .sort((one, other) => other.devices - one.devices)
    .slice(0, MAX_VERSIONS);
  const unknown = versions.get(UNKNOWN) ?? 0;
  const others = shown.reduce((left, { devices }) => left - devices, sum(versions) - unknown);
  return [
    ...shown,
    { product, version: UNKNOWN, devices: unknown },
    { product, version: OTHER, devices: others },
  ];
}

function add(counts: Map<string, number>, key: string, by: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + by;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}

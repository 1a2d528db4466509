import type { Assignment } from '@sitecast/shared/fleet';

/** The devices that this gateway knows an assignment of, counted by product. */
export class SiteDevices {
  readonly #devices = new Map<string, { product: string; site: string }>();
  /** The site that counts; undefined before the gateway has one. */
  site: string | undefined;

  /** Follows an assignment, new or changed. */
  note({ id, kind, product, site, revoked }: Assignment): void {
    if (kind === 'device' && product !== undefined && !revoked) this.#devices.set(id, { product, site });
    else this.#devices.delete(id);
  }

  countOf(product: string): number {
    let count = 0;
    for (const device of this.#devices.values())
      if (device.product === product && device.site === this.site) count += 1;
    return count;
  }

  get total(): number {
    return this.#devices.size;
  }
}

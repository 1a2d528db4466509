import type { Assignment } from '@sitecast/shared/fleet';

/** The devices that this gateway knows an assignment of, counted by product. */
export class SiteDevices {
  readonly #devices = new Map<string, Assignment>();
  /** The site that counts; undefined before the gateway has one. */
  site: string | undefined;

  /** Follows an assignment, new or changed. */
  note(assignment: Assignment): void {
    const { id, kind, product, revoked } = assignment;
    if (kind === 'device' && product !== undefined && !revoked) this.#devices.set(id, assignment);
    else this.#devices.delete(id);
  }

  /** Whether it's one of this site. */
  isHere(id: string): boolean {
    return this.site !== undefined && this.#devices.get(id)?.site === this.site;
  }

  /** Those of this site that have the product. */
  *of(product: string): Generator<Assignment> {
    for (const device of this.#devices.values())
      if (device.product === product && device.site === this.site) yield device;
  }

  /** What it's called, where it has a name and is known here. */
  nameOf(id: string): string | undefined {
    return this.#devices.get(id)?.name;
  }

  countOf(product: string): number {
    return [...this.of(product)].length;
  }

  get total(): number {
    return this.#devices.size;
  }
}

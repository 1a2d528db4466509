import {
  type Assignment,
  type DeltaAbility,
  readDeltaAbility,
  type Report,
  type RolloutsFile,
  SITE_WAY_INVENTORY,
} from '@sitecast/shared/fleet';

/** What a device has reported of itself. */
export interface RunningDevice {
  /** Counter of the release that it runs. */
  counter: number;
  /** Undefined: it uses no deltas, or doesn't know them. */
  ability: DeltaAbility | undefined;
  /** Whether it uses chunks instead of deltas where this gateway recommends that. */
  takesSiteWay: boolean;
}

/** The devices that this gateway knows an assignment of. */
export class SiteDevices {
  readonly #devices = new Map<string, Assignment>();
  /** What each device runs, if it has reported since this gateway's start. */
  readonly #running = new Map<string, RunningDevice>();
  #site: string | undefined;

  /** The site that this gateway serves; undefined before it is assigned to one. */
  get site(): string | undefined {
    return this.#site;
  }

  /** Called when this gateway was assigned to a site. */
  serve(site: string | undefined): void {
    this.#site = site;
  }

  /** Notes a new or changed assignment. */
  note(assignment: Assignment): void {
    const { id, kind, product, revoked } = assignment;
    if (kind === 'device' && product !== undefined && !revoked) this.#devices.set(id, assignment);
    else {
      this.#devices.delete(id);
      this.#running.delete(id);
    }
  }

  /** Called when a known device has reported its release. A large report comes without its inventory. */
  noteRunning(id: string, counter: number, inventory: Report['inventory']): void {
    if (!this.#devices.has(id)) return;
    const { ability, takesSiteWay = false } = inventory
      ? { ability: readDeltaAbility(inventory), takesSiteWay: inventory[SITE_WAY_INVENTORY] === true }
      : (this.#running.get(id) ?? {});
    this.#running.set(id, { counter, ability, takesSiteWay });
  }

  /** What a device runs; undefined before it has reported to this gateway. */
  runningOf(id: string): RunningDevice | undefined {
    return this.#running.get(id);
  }

  /** Whether a device of this site has reported that it runs the release. */
  isRun(product: string, counter: number): boolean {
    for (const { id } of this.of(product)) if (this.#running.get(id)?.counter === counter) return true;
    return false;
  }

  /** Whether an id is a device of this site. */
  isHere(id: string): boolean {
    return this.#site !== undefined && this.#devices.get(id)?.site === this.#site;
  }

  /** The devices of this site that have the product. */
  *of(product: string): Generator<Assignment> {
    for (const device of this.#devices.values())
      if (device.product === product && device.site === this.#site) yield device;
  }

  /** The display name of a device; undefined where it has none, or is not known here. */
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

/** Ids of revoked devices and gateways, by the mirrored rollouts. */
export class Revocations {
  #ids = new Set<string>();

  /** @returns the newly revoked ones */
  update(rollouts: ReadonlyMap<string, RolloutsFile>): string[] {
    const before = this.#ids;
    this.#ids = new Set([...rollouts.values()].flatMap(({ revoked }) => revoked));
    return [...this.#ids].filter(id => !before.has(id));
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }
}

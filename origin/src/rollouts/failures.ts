import type { Member } from '../fleet/member.ts';

/** Groups that are shown; and devices that are named of each. */
const MAX_GROUPS = 50;
const MAX_NAMED = 5;

/** Devices that failed with the same on the same hardware. */
export interface FailureGroup {
  code: string;
  hardware: string;
  /** What one of them said. */
  message: string;
  count: number;
  sites: number;
  /** Some of them. */
  devices: string[];
}

/** Brings failures together that look like one. */
export class FailureGroups {
  readonly #groups = new Map<string, Omit<FailureGroup, 'sites'> & { sites: Set<string> }>();

  add({ id, site, hardware = '' }: Member, { code, message }: { code: string; message: string }): void {
    const key = `${code} ${hardware}`;
    const group = this.#groups.get(key) ?? {
      code,
      hardware,
      message,
      count: 0,
      sites: new Set<string>(),
      devices: [],
    };
    this.#groups.set(key, group);
    group.count += 1;
    group.sites.add(site);
    if (group.devices.length < MAX_NAMED) group.devices.push(id);
  }

  /** Most first. */
  list(): FailureGroup[] {
    return [...this.#groups.values()]
      .sort((one, other) => other.count - one.count || one.code.localeCompare(other.code))
      .slice(0, MAX_GROUPS)
      .map(group => ({ ...group, sites: group.sites.size }));
  }
}

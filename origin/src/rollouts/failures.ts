import type { FailureGroup } from '@sitecast/shared/api';
import type { Member } from '../fleet/member.ts';

/** Groups that are shown; and devices that are named of each. */
const MAX_GROUPS = 50;
const MAX_NAMED = 5;

/** As agents of all releases begin what they say of a command. Nothing else of their text may name a group: each could have one of its own. */
const HOW_IT_ENDED = /(?:^|: )(exit code (?:\d{1,3}|none)|not done after \d{1,6} s)(?::|$)/;

/** Brings failures together that look like one. */
export class FailureGroups {
  readonly #groups = new Map<string, Omit<FailureGroup, 'sites'> & { sites: Set<string> }>();

  add({ id, site, hardware = '' }: Member, { code, message }: { code: string; message: string }): void {
    const detail = HOW_IT_ENDED.exec(message)?.[1];
    const key = JSON.stringify([code, detail, hardware]);
    const group = this.#groups.get(key) ?? {
      code,
      ...(detail === undefined ? {} : { detail }),
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

import { RECIPE_FORMAT } from '@sitecast/shared/delta';
import { DELTA_INVENTORY, type DeltaAbility, readDeltaAbility, usesRecipes } from '@sitecast/shared/fleet';
import type { Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';

/**
 * Pieces of images are opened only with an encoder that at least this share of the devices has. Measured on squashfs, an opened delta saves
 * about two and a half times as many bytes as a closed one, so from two fifths on the whole fleet saves more (decision 0117).
 */
const MIN_ENCODER_SHARE = 0.4;

/** Devices that run the same release and have the same delta abilities. */
export interface DeviceGroup {
  /** Undefined: the devices are of an earlier version, or use no deltas. */
  ability: DeltaAbility | undefined;
  devices: number;
  /** How many devices at each site; those without a site are under ''. */
  bySite: Map<string, number>;
}

/** How many devices run a release. */
export interface RunningRelease {
  counter: number;
  /** As the devices report it. */
  version: string;
  devices: number;
  /** How many of them can use the origin's deltas. */
  users: number;
  /** By the devices' own statement of their delta abilities. */
  groups: ReadonlyMap<string, DeviceGroup>;
}

/** Whether a device counts. @param counter of the release that it runs */
export type IsMeant = (device: Member, counter: number) => boolean;

/**
 * The releases that devices of a product run by their latest reports, most devices first. Devices that report no release are left out.
 * @param isMeant default: all devices of the product
 */
export function runningReleases(
  product: string,
  registry: Registry,
  isMeant: IsMeant = () => true,
): RunningRelease[] {
  const found = new Map<number, RunningRelease & { groups: Map<string, DeviceGroup> }>();
  for (const member of registry.members()) {
    if (!isInUse(member, product)) continue;
    const { booted, deltas = '' } = registry.status(member.id)?.last ?? {};
    if (!booted?.release || !isMeant(member, booted.release.counter)) continue;
    const { counter, version } = booted.release;
    const release = found.get(counter) ?? { counter, version, devices: 0, users: 0, groups: new Map() };
    const group = release.groups.get(deltas) ?? {
      ability: readDeltaAbility({ [DELTA_INVENTORY]: deltas }),
      devices: 0,
      bySite: new Map<string, number>(),
    };
    const site = member.site ?? '';
    group.devices += 1;
    group.bySite.set(site, (group.bySite.get(site) ?? 0) + 1);
    release.groups.set(deltas, group);
    release.devices += 1;
    release.users += Number(usesDeltas(group.ability));
    found.set(counter, release);
  }
  return [...found.values()].sort((one, other) => other.devices - one.devices || other.counter - one.counter);
}

const isInUse = (member: Member, product: string): boolean =>
  member.kind === 'device' && member.product === product && member.revokedAt === undefined;

/** Whether a device uses the recipes that the origin makes and signs; with `isTopLevel`, those that operators have signed. */
export function usesDeltas(ability: DeltaAbility | undefined, isTopLevel = false): ability is DeltaAbility {
  return usesRecipes(ability, { format: RECIPE_FORMAT, isTopLevel });
}

/**
 * The encoders that a delta from a release may use: those with which the devices that run it save most bytes together. A device that lacks
 * one fetches chunks for the windows that need it.
 * @returns undefined where no device runs the release: all encoders
 */
export function encodersFor(product: string, from: number, registry: Registry): string[] | undefined {
  const release = runningReleases(product, registry).find(({ counter }) => counter === from);
  if (!release || release.users === 0) return undefined;
  const counts = new Map<string, number>();
  for (const { ability, devices } of release.groups.values())
    if (usesDeltas(ability))
      for (const name of new Set(ability.encoders)) counts.set(name, (counts.get(name) ?? 0) + devices);
  const needed = MIN_ENCODER_SHARE * release.users;
  return [...counts].filter(([, devices]) => devices >= needed).map(([name]) => name);
}

import { RECIPE_FORMAT } from '@sitecast/shared/delta';
import { DELTA_INVENTORY, type DeltaAbility, readDeltaAbility, usesRecipes } from '@sitecast/shared/fleet';
import type { Registry } from '../fleet/registry.ts';

/**
 * Pieces of images are opened with an encoder that at least this share of the devices has. Measured on squashfs, an opened delta saves
 * about two and a half times as many bytes as a closed one, so from two fifths on more bytes are saved together (decision 0117).
 */
const MIN_ENCODER_SHARE = 0.4;

/** Devices that run the same release and can do the same with deltas. */
export interface DeviceGroup {
  /** Undefined: they say nothing, so they are of an earlier version or use none. */
  ability: DeltaAbility | undefined;
  devices: number;
  /** By site; those without one are under ''. */
  bySite: Map<string, number>;
}

/** How many devices run a release. */
export interface RunningRelease {
  counter: number;
  /** As the devices say. */
  version: string;
  devices: number;
  /** Those of them that can use what the origin makes. */
  users: number;
  /** By what they say that they can do with deltas. */
  groups: ReadonlyMap<string, DeviceGroup>;
}

/** The releases that devices of a product run by their last reports, most devices first. Those that say none are left out. */
export function runningReleases(product: string, registry: Registry): RunningRelease[] {
  const found = new Map<number, RunningRelease & { groups: Map<string, DeviceGroup> }>();
  for (const member of registry.members()) {
    if (member.kind !== 'device' || member.product !== product || member.revokedAt !== undefined) continue;
    const { booted, deltas = '' } = registry.status(member.id)?.last ?? {};
    if (!booted?.release) continue;
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

/** Whether a device uses the recipes that the origin makes and signs; with `isTopLevel` those that operators have signed. */
export function usesDeltas(ability: DeltaAbility | undefined, isTopLevel = false): ability is DeltaAbility {
  return usesRecipes(ability, { format: RECIPE_FORMAT, isTopLevel });
}

/**
 * The encoders that a delta from a release may need: those by which the devices that run it save most bytes together. A device that lacks
 * one takes the chunks of those windows.
 * @returns undefined where no device runs it: all
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

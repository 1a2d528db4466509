import type { DeltaName } from '@sitecast/shared/release';
import type { Registry } from '../fleet/registry.ts';
import type { Listing } from '../repository/listing.ts';
import { isUnderWay, type RolloutRecord } from '../rollouts/record.ts';

/** Deltas that are made for one rollout: from the releases that most devices run. */
const MAX_DELTAS_A_ROLLOUT = 8;

/** How many devices run a release. */
export interface RunningRelease {
  counter: number;
  /** As the devices say. */
  version: string;
  devices: number;
  /** By site; those without one are under ''. */
  bySite: ReadonlyMap<string, number>;
}

/** The releases that devices of a product run by their last reports, most devices first. Those that say none are left out. */
export function runningReleases(product: string, registry: Registry): RunningRelease[] {
  const found = new Map<number, RunningRelease & { bySite: Map<string, number> }>();
  for (const member of registry.members()) {
    if (member.kind !== 'device' || member.product !== product || member.revokedAt !== undefined) continue;
    const booted = registry.status(member.id)?.last.booted?.release;
    if (!booted) continue;
    const { counter, version } = booted;
    const release = found.get(counter) ?? { counter, version, devices: 0, bySite: new Map<string, number>() };
    release.devices += 1;
    const site = member.site ?? '';
    release.bySite.set(site, (release.bySite.get(site) ?? 0) + 1);
    found.set(counter, release);
  }
  return [...found.values()].sort((one, other) => other.devices - one.devices || other.counter - one.counter);
}

/** The deltas that rollouts under way need, for the releases that devices run and that are still listed. */
export function wantedDeltas(
  records: readonly RolloutRecord[],
  listing: Pick<Listing, 'releases'>,
  registry: Registry,
): DeltaName[] {
  const wanted = new Map<string, DeltaName>();
  for (const { product, rollout } of records) {
    if (rollout.state !== 'active' && rollout.state !== 'paused') continue;
    for (const delta of deltasTo(product, rollout.release.counter, listing, registry))
      wanted.set(`${product} ${delta.from} ${delta.to}`, delta);
  }
  return [...wanted.values()];
}

/** The deltas to a release that pay most: none to a release that isn't listed. */
export function deltasTo(
  product: string,
  to: number,
  { releases }: Pick<Listing, 'releases'>,
  registry: Registry,
): DeltaName[] {
  const listed = releases.get(product);
  if (listed?.has(to) !== true) return [];
  return runningReleases(product, registry)
    .filter(({ counter }) => counter !== to && listed.has(counter))
    .slice(0, MAX_DELTAS_A_ROLLOUT)
    .map(({ counter }) => ({ product, from: counter, to }));
}

/**
 * Whether the rollouts to a delta's release are over, so that nobody needs it: none is under way, and it isn't the one that latecomers
 * follow. Before its first rollout a delta isn't over: an operator had it made beforehand.
 * @param records newest first
 */
export function isOver({ product, to }: DeltaName, records: readonly RolloutRecord[]): boolean {
  const ofProduct = records.filter(record => record.product === product);
  const baseline = ofProduct.find(({ rollout }) => rollout.state === 'completed');
  const toIt = ofProduct.filter(({ rollout }) => rollout.release.counter === to);
  return toIt.length > 0 && toIt.every(record => !isUnderWay(record) && record !== baseline);
}

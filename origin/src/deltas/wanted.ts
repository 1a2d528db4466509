import type { DeltaName } from '@sitecast/shared/release';
import type { Registry } from '../fleet/registry.ts';
import { deltaKey, type Listing } from '../repository/listing.ts';
import { isUnderWay, type RolloutRecord } from '../rollouts/record.ts';
import { runningReleases } from './running.ts';

/** Deltas that are made for one rollout: from the releases of which most devices can use one. */
const MAX_DELTAS_A_ROLLOUT = 8;

/** The deltas that rollouts under way need, for the releases that devices run and that are still listed. */
export function wantedDeltas(
  records: readonly RolloutRecord[],
  listing: Pick<Listing, 'releases' | 'deltas'>,
  registry: Registry,
): DeltaName[] {
  const wanted = new Map<string, DeltaName>();
  for (const { product, rollout } of records) {
    if (rollout.state !== 'active' && rollout.state !== 'paused') continue;
    for (const delta of deltasTo(product, rollout.release.counter, listing, registry))
      wanted.set(deltaKey(delta), delta);
  }
  return [...wanted.values()];
}

/**
 * The deltas to a release that pay most: none to a release that isn't listed, none that no device could use, and none that operators have
 * signed, because clients take theirs.
 */
export function deltasTo(
  product: string,
  to: number,
  { releases, deltas }: Pick<Listing, 'releases' | 'deltas'>,
  registry: Registry,
): DeltaName[] {
  const listed = releases.get(product);
  if (listed?.has(to) !== true) return [];
  return runningReleases(product, registry)
    .filter(({ counter, users }) => users > 0 && counter !== to && listed.has(counter))
    .filter(({ counter }) => !deltas.has(deltaKey({ product, from: counter, to })))
    .sort((one, other) => other.users - one.users || other.counter - one.counter)
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

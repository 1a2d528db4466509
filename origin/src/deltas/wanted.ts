import { eligibilityOf, type Rollout } from '@sitecast/shared/fleet';
import type { DeltaName } from '@sitecast/shared/release';
import { ORIGIN } from '../audit/audit.ts';
import { assignmentOf } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import { deltaKey, type Listing } from '../repository/listing.ts';
import { isUnderWay, type RolloutRecord } from '../rollouts/record.ts';
import type { DeltaJob } from './job.ts';
import { type IsMeant, runningReleases } from './running.ts';

/** How many deltas are made for one rollout: from the releases with the most devices that can use deltas. */
const MAX_DELTAS_A_ROLLOUT = 8;

/** A delta that a rollout under way needs. */
export interface WantedDelta extends DeltaName {
  /** When the newest rollout that needs it was started, in ms since 1970. */
  sinceMs: number;
}

/** The deltas that rollouts under way need, for the releases that devices run and that are still listed. */
export function wantedDeltas(
  records: readonly RolloutRecord[],
  listing: Pick<Listing, 'releases' | 'deltas'>,
  registry: Registry,
): WantedDelta[] {
  const wanted = new Map<string, WantedDelta>();
  for (const { product, rollout } of records) {
    if (!isNeeding(rollout)) continue;
    const isMeant = ledBy([rollout]);
    for (const delta of deltasTo(product, rollout.release.counter, { listing, registry, isMeant })) {
      const sinceMs = Math.max(
        Date.parse(rollout.createdAt),
        wanted.get(deltaKey(delta))?.sinceMs ?? Number.NEGATIVE_INFINITY,
      );
      wanted.set(deltaKey(delta), { ...delta, sinceMs });
    }
  }
  return [...wanted.values()];
}

/**
 * The devices that some of the rollouts lead to their release, at this stage or a later one. Where a rollout leads back to an older
 * release, that includes devices that run a newer one.
 */
export function ledBy(rollouts: readonly Rollout[]): IsMeant {
  return (device, counter) => {
    const assignment = assignmentOf(device);
    return rollouts.some(
      rollout => eligibilityOf(rollout, { assignment, bootedCounter: counter }) !== 'noMatch',
    );
  };
}

/** The rollouts under way that lead to a release. */
export const rolloutsTo = (product: string, to: number, records: readonly RolloutRecord[]): Rollout[] =>
  records
    .filter(record => record.product === product && record.rollout.release.counter === to)
    .map(({ rollout }) => rollout)
    .filter(isNeeding);

/**
 * The most useful deltas to a release. Left out: those from a release that isn't listed, those that no device could use, and those that
 * operators have signed, which clients prefer.
 */
export function deltasTo(
  product: string,
  to: number,
  {
    listing: { releases, deltas },
    registry,
    isMeant,
  }: { listing: Pick<Listing, 'releases' | 'deltas'>; registry: Registry; isMeant: IsMeant },
): DeltaName[] {
  const listed = releases.get(product);
  if (listed?.has(to) !== true) return [];
  return runningReleases(product, registry, isMeant)
    .filter(({ counter, users }) => users > 0 && counter !== to && listed.has(counter))
    .filter(({ counter }) => !deltas.has(deltaKey({ product, from: counter, to })))
    .sort((one, other) => other.users - one.users || other.counter - one.counter)
    .slice(0, MAX_DELTAS_A_ROLLOUT)
    .map(({ counter }) => ({ product, from: counter, to }));
}

/** Whether a rollout leads devices to its release, so that it needs deltas to it. */
const isNeeding = ({ state }: RolloutRecord['rollout']): boolean => state === 'active' || state === 'paused';

/** Whether a rollout under way leads to the release of a delta. */
export function isNeeded({ product, to }: DeltaName, records: readonly RolloutRecord[]): boolean {
  return records.some(
    record =>
      record.product === product && record.rollout.release.counter === to && isNeeding(record.rollout),
  );
}

/**
 * Whether the rollouts to a delta's release are over, so that the delta is no longer needed: none of them is under way, and none is the one
 * that latecomers follow. A delta that an operator requested before the first rollout, or after they were over, isn't over: it is for a
 * rollout to come.
 * @param records newest first
 */
export function isOver(
  { product, to, ...job }: DeltaName & Partial<Pick<DeltaJob, 'by' | 'requestedAt'>>,
  records: readonly RolloutRecord[],
): boolean {
  const ofProduct = records.filter(record => record.product === product);
  const baseline = ofProduct.find(({ rollout }) => rollout.state === 'completed');
  const toIt = ofProduct.filter(({ rollout }) => rollout.release.counter === to);
  if (toIt.length === 0 || !toIt.every(record => !isUnderWay(record) && record !== baseline)) return false;
  if (job.by === undefined || job.by === ORIGIN || job.requestedAt === undefined) return true;
  const lastChanges = [...toIt, ...(baseline ? [baseline] : [])].map(
    ({ changes }) => changes.at(-1)?.at ?? '',
  );
  const asked = Date.parse(job.requestedAt);
  return lastChanges.some(at => asked <= Date.parse(at));
}

type Reason = NonNullable<DeltaJob['reason']>;

/**
 * Why a delta is no longer needed; undefined while it is.
 * @param delta with `by` and `requestedAt` where it is known who requested it, and when
 * @param records newest first
 */
export function whyUseless(
  delta: DeltaName & Partial<Pick<DeltaJob, 'by' | 'requestedAt'>>,
  { releases }: Pick<Listing, 'releases'>,
  records: readonly RolloutRecord[],
): Reason | undefined {
  const { product, from, to } = delta;
  const listed = releases.get(product);
  if (listed?.has(from) !== true || !listed.has(to))
    return { code: 'SITECAST_RELEASE_UNKNOWN', message: 'one of its releases was withdrawn' };
  return isOver(delta, records)
    ? { code: 'SITECAST_DELTA_OVER', message: overText(delta, records) }
    : undefined;
}

function overText({ product, to }: DeltaName, records: readonly RolloutRecord[]): string {
  const last = records.find(record => record.product === product && record.rollout.release.counter === to);
  if (!last) return 'the rollouts to its release are over';
  const { id, release, state } = last.rollout;
  const how = state === 'completed' ? 'is completed, and so is a later one' : 'was aborted';
  return `rollout ${id} to ${release.version} ${how}`;
}

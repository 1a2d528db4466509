import { type Rollout, rankOf } from '@sitecast/shared/fleet';

/** A bound that no device's rank is below. */
export const NO_DEVICE = '0'.repeat(64);
const HIGHEST_RANK = 'f'.repeat(64);

type Cohort = Rollout['cohort'];

export interface Frozen {
  cohort: Cohort;
  /** Ids of the candidates that are in, canaries first, then by rank. */
  members: string[];
}

/**
 * The cohort at a stage's start: exactly `devicesIn(basisPoints, n)` of the n candidates, unless more are in already: `below` never
 * falls. Canaries are in by name, and they count.
 * @param candidates ids of the enrolled devices that the rollout is for
 * @param before the cohort so far
 */
export function freeze(
  rolloutId: string,
  candidates: Iterable<string>,
  basisPoints: number,
  before: Cohort,
  nowMs: number,
): Frozen {
  const canaries = new Set(before.canaries);
  const ranked = [...candidates].map(id => ({
    id,
    rank: canaries.has(id) ? '' : rankOf(rolloutId, id),
  }));
  ranked.sort((one, other) => (one.rank < other.rank ? -1 : one.rank > other.rank ? 1 : 0));
  if (basisPoints >= 10_000 || before.below === null)
    return { cohort: { below: null }, members: ranked.map(({ id }) => id) };
  const wanted = devicesIn(basisPoints, ranked.length);
  const alreadyIn = ranked.filter(({ rank }) => rank < (before.below ?? NO_DEVICE)).length;
  const members = ranked.slice(0, Math.max(wanted, alreadyIn));
  const last = members.at(-1)?.rank ?? '';
  const reached = last === '' ? NO_DEVICE : justAbove(last);
  const below = reached > before.below ? reached : before.below;
  const asOf = new Date(nowMs).toISOString();
  return {
    cohort: { below, asOf, ...(before.canaries && { canaries: before.canaries }) },
    members: members.map(({ id }) => id),
  };
}

/** How many of a rollout's devices a share includes. */
export function devicesIn(basisPoints: number, devices: number): number {
  return Math.ceil((basisPoints * devices) / 10_000);
}

/** A bound that includes this rank and no higher one. */
function justAbove(rank: string): string {
  return rank === HIGHEST_RANK ? rank : (BigInt(`0x${rank}`) + 1n).toString(16).padStart(64, '0');
}

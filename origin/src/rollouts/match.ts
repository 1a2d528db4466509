import { type Assignment, eligibilityOf, type Rollout } from '@sitecast/shared/fleet';
import { assignmentOf, type Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Status } from '../fleet/status.ts';

export type Match = Rollout['match'];

/** The release that a device runs, by its last report; 0 where that's unknown. */
export function bootedCounter(status: Status | undefined): number {
  return status?.last.booted?.release?.counter ?? 0;
}

/** Whether a rollout reaches a device now, as the device itself will decide. */
export function isReached(
  rollout: Rollout,
  product: string,
  member: Member,
  status: Status | undefined,
): boolean {
  if (member.kind !== 'device' || member.product !== product || member.revokedAt !== undefined) return false;
  const assignment: Assignment = assignmentOf(member);
  return eligibilityOf(rollout, { assignment, bootedCounter: bootedCounter(status) }) === 'in';
}

/** The devices that a rollout reaches now. */
export function* reachedBy(rollout: Rollout, product: string, registry: Registry): Generator<Member> {
  for (const member of registry.members()) {
    if (isReached(rollout, product, member, registry.status(member.id))) yield member;
  }
}

/**
 * Whether two matches could ever mean one device, enrolled or not yet. Tags differ only where both demand another
 * value of the same name.
 */
export function couldMeet(one: Match, other: Match): boolean {
  return (
    haveCommon(one.hardware, other.hardware) &&
    haveCommon(one.sites, other.sites) &&
    rangesMeet(one.fromCounter, other.fromCounter) &&
    Object.entries(one.tags ?? {}).every(
      ([name, value]) => !other.tags || !Object.hasOwn(other.tags, name) || other.tags[name] === value,
    )
  );
}

function haveCommon(one: readonly string[] | undefined, other: readonly string[] | undefined): boolean {
  if (!one || !other) return true;
  const known = new Set(one);
  return other.some(name => known.has(name));
}

function rangesMeet(one: Match['fromCounter'], other: Match['fromCounter']): boolean {
  return !one || !other || (one.min <= other.max && other.min <= one.max);
}

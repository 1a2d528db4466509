import type { RolloutSpec } from '@sitecast/shared/api';
import { SitecastError } from '@sitecast/shared/errors';
import { type Assignment, eligibilityOf, type Rollout } from '@sitecast/shared/fleet';
import { assignmentOf, type Member } from '../fleet/member.ts';
import type { Registry } from '../fleet/registry.ts';
import type { Status } from '../fleet/status.ts';

export type Match = Rollout['match'];

/** Counter of the release that a device runs, by its last report; 0: unknown. */
export function bootedCounter(status: Status | undefined): number {
  return status?.last.booted?.release?.counter ?? 0;
}

/** States in which a device of an earlier release, which doesn't say whether the slot is good, runs it on trial. */
const TRIAL_STATES: ReadonlySet<string> = new Set(['rebooting', 'confirming', 'failed']);

/** Counter of the release that a device runs, and has found good; 0: unknown, or it runs on trial. */
export function provedCounter(status: Status | undefined): number {
  const { booted, state, release } = status?.last ?? {};
  const counter = bootedCounter(status);
  const isAbout = state !== undefined && TRIAL_STATES.has(state) && release?.counter === counter;
  const { isConfirmed = !isAbout } = booted ?? {};
  return isConfirmed ? counter : 0;
}

/** Whether a rollout reaches a device now. The device decides by the same function. */
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
 * Whether some device, enrolled or not yet, could fit both matches. Tags exclude each other only where both demand different values
 * of one name.
 */
export function canOverlap(one: Match, other: Match): boolean {
  return (
    haveCommonName(one.hardware, other.hardware) &&
    haveCommonName(one.sites, other.sites) &&
    rangesOverlap(one.fromCounter, other.fromCounter) &&
    Object.entries(one.tags ?? {}).every(
      ([name, value]) => !other.tags || !Object.hasOwn(other.tags, name) || other.tags[name] === value,
    )
  );
}

function haveCommonName(one: readonly string[] | undefined, other: readonly string[] | undefined): boolean {
  if (!one || !other) return true;
  const known = new Set(one);
  return other.some(name => known.has(name));
}

function rangesOverlap(one: Match['fromCounter'], other: Match['fromCounter']): boolean {
  return !one || !other || (one.min <= other.max && other.min <= one.max);
}

/** Names in one answer. */
const MAX_NAMED = 10;

const UNKNOWN_KINDS = ['product', 'site', 'hardware', 'tag'] as const;
type UnknownKind = (typeof UNKNOWN_KINDS)[number];

/** A name that no member of the fleet has: more often a typing error than a plan. */
interface UnknownName {
  what: UnknownKind;
  name: string;
  /** The most similar known name. */
  nearest?: string;
}

type Names = Record<UnknownKind, readonly string[]>;

/**
 * The first ten of these names that no member of the fleet has. Known are the products and sites of all gateways and devices that aren't revoked,
 * and the hardware and tags of devices: of all, or of one product's.
 */
export function unknownNames(names: Partial<Names>, registry: Registry, product?: string): UnknownName[] {
  const wanted: Names = { product: [], site: [], hardware: [], tag: [], ...names };
  if (UNKNOWN_KINDS.every(what => wanted[what].length === 0)) return [];
  const known = namesIn(registry, product);
  const unknown = UNKNOWN_KINDS.flatMap(what =>
    wanted[what].filter(name => !known[what].has(name)).map(name => ({ what, name })),
  );
  return unknown.slice(0, MAX_NAMED).map(({ what, name }) => {
    const nearest = nearestOf(name, known[what]);
    return { what, name, ...(nearest !== undefined && { nearest }) };
  });
}

/**
 * Refuses a rollout that no device could match: it would block the next one.
 * @throws SITECAST_MATCH_UNKNOWN (notFound); `data.unknown` and `data.nearest` have the nearest known names
 */
export function refuseUnknownNames(
  { product, match }: Pick<RolloutSpec, 'product' | 'match'>,
  registry: Registry,
): void {
  const { sites = [], hardware = [], tags = {} } = match;
  const unknown = unknownNames({ site: sites, hardware, tag: tagTexts(tags) }, registry, product);
  if (unknown.length === 0) return;
  const nearest = unknown.find(name => name.nearest !== undefined)?.nearest;
  throw new SitecastError(
    'notFound',
    'SITECAST_MATCH_UNKNOWN',
    `nobody in the fleet has ${unknown.map(nameText).join(', ')}`,
    {
      hint: 'If devices that have it are still to come: --allow-unknown.',
      data: { unknown, ...(nearest !== undefined && { nearest }) },
    },
  );
}

export const tagTexts = (tags: Record<string, string>): string[] =>
  Object.entries(tags).map(([name, value]) => `${name}=${value}`);

function namesIn(registry: Registry, product: string | undefined): Record<UnknownKind, ReadonlySet<string>> {
  const names = {
    product: new Set<string>(),
    site: new Set<string>(),
    hardware: new Set<string>(),
    tag: new Set<string>(),
  };
  for (const member of registry.members()) {
    if (member.revokedAt !== undefined) continue;
    names.site.add(member.site);
    if (member.product !== undefined) names.product.add(member.product);
    if (product !== undefined && member.product !== product) continue;
    if (member.hardware !== undefined) names.hardware.add(member.hardware);
    for (const tag of tagTexts(member.tags)) names.tag.add(tag);
  }
  return names;
}

const nameText = ({ what, name, nearest }: UnknownName): string =>
  `the ${what} ${name}${nearest === undefined ? '' : ` (is it ${nearest}?)`}`;

/** Known names that one name is compared with at most: more would take too long for a hint. */
const MAX_COMPARED = 2000;
/** Typing errors in one name, and at most one in every third character. */
const MAX_EDITS = 3;

/** The known name that is most like this one; undefined if none is similar. */
export function nearestOf(name: string, known: Iterable<string>): string | undefined {
  let nearest: string | undefined;
  let least = Math.min(MAX_EDITS, Math.max(1, Math.floor(name.length / 3))) + 1;
  let compared = 0;
  for (const other of known) {
    if (Math.abs(other.length - name.length) >= least) continue;
    compared += 1;
    if (compared > MAX_COMPARED) break;
    const edits = editDistance(name.toLowerCase(), other.toLowerCase());
    if (edits >= least) continue;
    nearest = other;
    least = edits;
  }
  return nearest;
}

/** Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours. */
function editDistance(one: string, other: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let row = 1; row <= one.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= other.length; column += 1) {
      const isSame = one[row - 1] === other[column - 1];
      const isSwapped = one[row - 1] === other[column - 2] && one[row - 2] === other[column - 1];
      current[column] = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (isSame ? 0 : 1),
        isSwapped && row > 1 && column > 1 ? (beforeLast[column - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY,
      );
    }
    beforeLast = last;
    last = current;
  }
  return last[other.length] ?? 0;
}

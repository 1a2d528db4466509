import { SitecastError } from '@sitecast/shared/errors';
import type { Registry } from '../fleet/registry.ts';
import { nearestOf } from './nearest.ts';
import type { WantedRollout } from './wanted.ts';

/** Names that one answer tells of. */
const MAX_TOLD = 10;

type UnknownKind = 'site' | 'hardware' | 'tag';

/** A name that nobody in the fleet has: a slip more often than a plan. */
interface UnknownName {
  what: UnknownKind;
  name: string;
  /** What was meant, perhaps. */
  nearest?: string;
}

type Names = Record<UnknownKind, readonly string[]>;

/**
 * Which of these nobody in the fleet has, the first ten. Known is the site of every gateway and device that isn't revoked, and
 * their hardware and tags; with a product those of its devices alone.
 */
export function unknownNames(names: Partial<Names>, registry: Registry, product?: string): UnknownName[] {
  const wanted: Names = { site: [], hardware: [], tag: [], ...names };
  if (wanted.site.length + wanted.hardware.length + wanted.tag.length === 0) return [];
  const known = namesIn(registry, product);
  const unknown = (['site', 'hardware', 'tag'] as const).flatMap(what =>
    wanted[what].filter(name => !known[what].has(name)).map(name => ({ what, name })),
  );
  return unknown.slice(0, MAX_TOLD).map(({ what, name }) => {
    const nearest = nearestOf(name, known[what]);
    return { what, name, ...(nearest !== undefined && { nearest }) };
  });
}

/**
 * A rollout of nobody would bar the next one.
 * @throws SITECAST_MATCH_UNKNOWN (notFound); `data.unknown` and `data.nearest` say what was meant, perhaps
 */
export function refuseUnknownNames({ product, match }: WantedRollout, registry: Registry): void {
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
  const names = { site: new Set<string>(), hardware: new Set<string>(), tag: new Set<string>() };
  for (const member of registry.members()) {
    if (member.revokedAt !== undefined) continue;
    names.site.add(member.site);
    if (product !== undefined && member.product !== product) continue;
    if (member.hardware !== undefined) names.hardware.add(member.hardware);
    for (const tag of tagTexts(member.tags)) names.tag.add(tag);
  }
  return names;
}

const nameText = ({ what, name, nearest }: UnknownName): string =>
  `the ${what} ${name}${nearest === undefined ? '' : ` (is it ${nearest}?)`}`;

import { SitecastError } from '@sitecast/shared/errors';
import type { Registry } from '../fleet/registry.ts';
import { nearestOf } from './nearest.ts';
import type { WantedRollout } from './wanted.ts';

/** Names that one refusal tells of. */
const MAX_TOLD = 10;

interface UnknownName {
  what: 'site' | 'hardware' | 'tag';
  name: string;
  /** What was meant, perhaps. */
  nearest?: string;
}

/**
 * A name that nobody in the fleet has is a slip more often than it's a plan, and a rollout of nobody bars the next one.
 * Known is the site of every gateway and device that isn't revoked, hardware and tags of the product's devices.
 * @throws SITECAST_MATCH_UNKNOWN (notFound); `data.unknown` and `data.nearest` say what was meant, perhaps
 */
export function refuseUnknownNames({ product, match }: WantedRollout, registry: Registry): void {
  const wanted = {
    site: match.sites ?? [],
    hardware: match.hardware ?? [],
    tag: Object.entries(match.tags ?? {}).map(tagText),
  };
  if (wanted.site.length + wanted.hardware.length + wanted.tag.length === 0) return;
  const known = namesIn(registry, product);
  const unknown = (['site', 'hardware', 'tag'] as const).flatMap(what =>
    wanted[what].filter(name => !known[what].has(name)).map(name => ({ what, name })),
  );
  if (unknown.length === 0) return;
  const told = unknown.slice(0, MAX_TOLD).map(({ what, name }): UnknownName => {
    const nearest = nearestOf(name, known[what]);
    return { what, name, ...(nearest !== undefined && { nearest }) };
  });
  const more = unknown.length > told.length ? ` and ${unknown.length - told.length} more` : '';
  const [first] = told.flatMap(({ nearest }) => nearest ?? []);
  throw new SitecastError(
    'notFound',
    'SITECAST_MATCH_UNKNOWN',
    `nobody in the fleet has ${told.map(nameText).join(', ')}${more}`,
    {
      hint: 'If devices that have it are still to come: --allow-unknown.',
      data: { unknown: told, ...(first !== undefined && { nearest: first }) },
    },
  );
}

function namesIn(registry: Registry, product: string): Record<UnknownName['what'], ReadonlySet<string>> {
  const names = { site: new Set<string>(), hardware: new Set<string>(), tag: new Set<string>() };
  for (const member of registry.members()) {
    if (member.revokedAt !== undefined) continue;
    names.site.add(member.site);
    if (member.product !== product) continue;
    if (member.hardware !== undefined) names.hardware.add(member.hardware);
    for (const tag of Object.entries(member.tags)) names.tag.add(tagText(tag));
  }
  return names;
}

const tagText = ([name, value]: readonly [string, string]): string => `${name}=${value}`;

const nameText = ({ what, name, nearest }: UnknownName): string =>
  `the ${what} ${name}${nearest === undefined ? '' : ` (is it ${nearest}?)`}`;

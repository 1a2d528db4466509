import { type DeltaName, parseTargetName, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { TargetFile } from '@sitecast/shared/trust';
import type { Committed } from './committed.ts';
import type { PublishedFile } from './listing.ts';

/** A delta as metadata lists it. */
export interface ListedDelta extends DeltaName {
  recipe: PublishedFile;
  /** Names the chunks of its patches. */
  patchIndex: PublishedFile;
}

/** Tells deltas apart in a map or set. */
export const deltaKey = ({ product, from, to }: DeltaName): string => `${product} ${from} ${to}`;

/** The deltas that the origin has published. One whose halves aren't both listed is left out. */
export function listedDeltas({ deltas }: Pick<Committed, 'deltas'>): ListedDelta[] {
  const { targets } = deltas.signed;
  return Object.keys(targets).flatMap(name => {
    const parsed = parseTargetName(name);
    if (parsed?.kind !== 'recipe') return [];
    const { product, from, to } = parsed;
    const [recipe, patchIndex] = [fileOf(targets, name), fileOf(targets, patchIndexTarget(parsed))];
    return recipe && patchIndex ? [{ product, from, to, recipe, patchIndex }] : [];
  });
}

/** What the role lists once some deltas are no longer listed. */
export function withoutDeltas(
  targets: Readonly<Record<string, TargetFile>>,
  removed: Iterable<DeltaName>,
): Record<string, TargetFile> {
  const names = new Set([...removed].flatMap(delta => [recipeTarget(delta), patchIndexTarget(delta)]));
  return Object.fromEntries(Object.entries(targets).filter(([name]) => !names.has(name)));
}

function fileOf(targets: Readonly<Record<string, TargetFile>>, name: string): PublishedFile | undefined {
  const file = targets[name];
  const sha256 = file?.hashes.sha256;
  if (!file || sha256 === undefined) return undefined;
  return { name, role: 'deltas', sha256, lengthBytes: file.length };
}

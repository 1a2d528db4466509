import { type DeltaName, parseTargetName, patchIndexTarget, recipeTarget } from '@sitecast/shared/release';
import type { TargetFile } from '@sitecast/shared/trust';
import type { Committed } from './committed.ts';
import { type ListedDelta, type PublishedFile, publishedFileOf, readListing, releasesOf } from './listing.ts';

/** The deltas that the origin itself has published. One whose halves aren't both listed is left out. */
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

/** The deltas that operators have signed with offline keys: the top-level targets list them. */
export function signedDeltas({ targets }: Pick<Committed, 'targets'>): ListedDelta[] {
  return [...readListing(targets.signed).deltas.values()];
}

/** All of both. Clients take those that operators have signed before the origin's of the same name. */
export function allDeltas(committed: Pick<Committed, 'targets' | 'deltas'>): ListedDelta[] {
  return [...signedDeltas(committed), ...listedDeltas(committed)];
}

/** The indexes of all releases, and those of the patches of all deltas. */
export function publishedIndexes(committed: Committed): PublishedFile[] {
  const ofReleases = releasesOf(committed).map(({ index }) => publishedFileOf(index));
  return [...ofReleases, ...allDeltas(committed).map(({ patchIndex }) => patchIndex)];
}

/** Whether operators have signed it. */
export function isSignedOffline({ recipe }: ListedDelta): boolean {
  return recipe.role === 'targets';
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

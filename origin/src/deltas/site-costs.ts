import type { UpdateCost } from '@sitecast/shared/api';
import type { RecipeWindow } from '@sitecast/shared/delta';

/**
 * How many chunks are compared to find what plans share. Beyond that, the costs of a site's plans are added up, which never gives too
 * little.
 */
const MAX_LOOKED_AT = 2 ** 24;

/** A set of numbers of chunks or windows: one bit for each. */
export type Bits = Uint8Array;

export function bitsOf(count: number, numbers: Iterable<number>): Bits {
  const bits = new Uint8Array(Math.ceil(count / 8));
  for (const number of numbers) bits[number >> 3] = (bits[number >> 3] ?? 0) | (1 << (number & 7));
  return bits;
}

const hasBit = (bits: Bits, number: number): boolean =>
  ((bits[number >> 3] ?? 0) & (1 << (number & 7))) !== 0;

/** What devices with the same plan fetch for an update. */
export interface Need {
  /** The cost for a site where all devices have this plan. */
  bytes: number;
  isEstimate: boolean;
  /** Numbers of the chunks of the target that are fetched. */
  chunks: Bits;
  /** Undefined: everything is fetched as chunks, with the target's index. */
  delta: { recipeBytes: number; patchIndexBytes: number; windows: readonly RecipeWindow[] } | undefined;
  /** Numbers of the delta's windows whose patches are fetched. */
  windows: Bits;
}

interface TargetCosts {
  chunkCount: number;
  /** The estimated bytes of a chunk's frame. */
  frameBytesOf: (chunk: number) => number;
  indexBytes: number;
  /** About what the whole image costs. A site never fetches more. */
  imageBytes: number;
}

/**
 * What crosses the WAN to all sites. What the plans of a site share crosses it once, and no site fetches more than the image.
 * @param bySite what the devices of each site need; `image`: some have not said which release they run
 */
export function sitesCost(
  bySite: ReadonlyMap<string, ReadonlySet<Need | 'image'>>,
  target: TargetCosts,
): UpdateCost['sites'] {
  const known = new Map<string, number>();
  const numbers = new Map<Need | 'image', number>();
  let leftToLookAt = MAX_LOOKED_AT;
  const costOf = (needs: readonly (Need | 'image')[]): number => {
    const { imageBytes, chunkCount } = target;
    const plans = needs.filter(need => need !== 'image');
    if (plans.length < needs.length) return imageBytes;
    const sum = plans.reduce((all, { bytes }) => all + bytes, 0);
    if (plans.length < 2 || leftToLookAt < chunkCount) return Math.min(sum, imageBytes);
    leftToLookAt -= chunkCount;
    return Math.min(sum, togetherBytes(plans, target), imageBytes);
  };
  const all = [...bySite.values()].map(needs => {
    for (const need of needs) if (!numbers.has(need)) numbers.set(need, numbers.size);
    const key = [...needs]
      .map(need => numbers.get(need) ?? 0)
      .sort((one, other) => one - other)
      .join();
    const bytes = known.get(key) ?? costOf([...needs]);
    known.set(key, bytes);
    return bytes;
  });
  return {
    count: all.length,
    mostBytes: all.reduce((most, bytes) => Math.max(most, bytes), 0),
    allBytes: all.reduce((sum, bytes) => sum + bytes, 0),
    isEstimate: [...bySite.values()].some(
      needs => needs.size > 1 || [...needs].some(need => need === 'image' || need.isEstimate),
    ),
  };
}

/** About what the plans of a site cost together: each chunk, patch, recipe and index counts once. */
function togetherBytes(
  plans: readonly Need[],
  { chunkCount, frameBytesOf, indexBytes }: TargetCosts,
): number {
  let bytes = plans.some(({ delta }) => delta === undefined) ? indexBytes : 0;
  for (let at = 0; at < chunkCount; at += 1)
    if (plans.some(({ chunks }) => hasBit(chunks, at))) bytes += frameBytesOf(at);
  for (const delta of new Set(plans.map(plan => plan.delta))) {
    if (!delta) continue;
    const users = plans.filter(plan => plan.delta === delta);
    const patchBytes = delta.windows.reduce(
      (sum, { patchLength }, at) =>
        sum + (users.some(({ windows }) => hasBit(windows, at)) ? patchLength : 0),
      0,
    );
    bytes += delta.recipeBytes + (patchBytes > 0 ? delta.patchIndexBytes : 0) + patchBytes;
  }
  return Math.round(bytes);
}

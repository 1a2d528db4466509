import type { UpdateCost } from '@sitecast/shared/api';
import type { RecipeWindow } from '@sitecast/shared/delta';

/** Chunks that are looked at to tell what plans share; beyond it a site's plans are added up, which is never too little. */
const MAX_LOOKED_AT = 2 ** 24;

/** Numbers of chunks or windows: a bit for each. */
export type Bits = Uint8Array;

export function bitsOf(count: number, numbers: Iterable<number>): Bits {
  const bits = new Uint8Array(Math.ceil(count / 8));
  for (const number of numbers) bits[number >> 3] = (bits[number >> 3] ?? 0) | (1 << (number & 7));
  return bits;
}

const hasBit = (bits: Bits, number: number): boolean =>
  ((bits[number >> 3] ?? 0) & (1 << (number & 7))) !== 0;

/** What devices that are alike fetch for an update. */
export interface Need {
  /** What it costs a site where all devices are alike. */
  bytes: number;
  isEstimate: boolean;
  /** Numbers of chunks of the target. */
  chunks: Bits;
  /** Undefined: all come as chunks, and the target's index with them. */
  delta: { recipeBytes: number; patchIndexBytes: number; windows: readonly RecipeWindow[] } | undefined;
  /** Those of the delta's windows whose patches are fetched. */
  windows: Bits;
}

interface TargetCosts {
  chunkCount: number;
  /** About the bytes of a chunk's frame. */
  frameBytesOf: (chunk: number) => number;
  indexBytes: number;
  /** About what the whole image costs: a site never fetches more. */
  imageBytes: number;
}

/**
 * What crosses the WAN of sites: what the plans of a site share crosses it once, and no site fetches more than the image.
 * @param bySite what the devices of each site need; `image` where some have not said which release they run
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

/** About what the plans of a site cost together: each chunk, patch, recipe and index once. */
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

import { ChunkIdSet, type ChunkIndex, eachId, FRAME_OVERHEAD_BYTES } from '@sitecast/shared/content';
import {
  isWorthFetching,
  patchChunkBytes,
  type PlacedWindow,
  type Recipe,
  type RecipeWindow,
  windowsOf,
  zeroChunks,
} from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';

/** A delta whose files are here. */
export interface HeldDelta {
  recipe: Recipe;
  patchIndex: ChunkIndex;
}

/** The chunks that devices of one running release fetch for an update, at least approximately. */
export interface UpdatePlan {
  ids: ChunkIdSet;
  /** Bytes of the chunks' plain content. */
  bytes: number;
  /** The cost of the chunks of patches among them: see `costOf`. */
  patchCostBytes: number;
}

/** The most that the chunks of a plan cost the WAN, in bytes: many tiny chunks cost more than they hold. */
export function costOf({ ids, bytes }: Pick<UpdatePlan, 'ids' | 'bytes'>): number {
  return bytes + ids.size * FRAME_OVERHEAD_BYTES;
}

/**
 * What devices that run `base` fetch of an image: what their own slot lacks, with patches if there is a delta. Each device plans alone: one
 * whose slot was altered fetches more, when it asks for it.
 * @param canApply which windows they can apply; default: all
 */
export function planUpdate(
  target: ChunkIndex,
  base: ChunkIndex | undefined,
  delta: HeldDelta | undefined,
  canApply: (window: RecipeWindow) => boolean = () => true,
): UpdatePlan {
  const windows =
    base && delta ? worthIt(placedWindows(delta.recipe, base, target).filter(canApply), target, delta) : [];
  const patched = new Uint8Array(target.count);
  for (const { firstChunk, chunkCount } of windows) patched.fill(1, firstChunk, firstChunk + chunkCount);
  const plan: UpdatePlan = { ids: new ChunkIdSet(), bytes: 0, patchCostBytes: 0 };
  if (delta) addPatches(plan, delta.patchIndex, windows);
  plan.patchCostBytes = costOf(plan);
  const isZero = zeroChunks(target);
  for (let at = 0; at < target.count; at += 1) {
    const id = target.idAt(at);
    if (patched[at] === 0 && isZero[at] === 0 && base?.find(id) === undefined)
      add(plan, id, target.lengthOf(at));
  }
  return plan;
}

/** One plan for all of them: what several need is fetched once. */
export function joined(plans: readonly UpdatePlan[]): Pick<UpdatePlan, 'ids' | 'bytes'> {
  const ids = new ChunkIdSet();
  for (const plan of plans) for (const id of eachId(plan.ids.bytes())) ids.add(id);
  return { ids, bytes: plans.reduce((sum, { bytes }) => sum + bytes, 0) };
}

/** Adds the chunks of these windows' patches. @param windows in the order of their patches */
function addPatches(plan: UpdatePlan, index: ChunkIndex, windows: readonly PlacedWindow[]): void {
  let at = 0;
  for (const { patchOffset, patchLength } of windows) {
    while (at < index.count && index.endOf(at) <= patchOffset) at += 1;
    for (; at < index.count && index.startOf(at) < patchOffset + patchLength; at += 1)
      add(plan, index.idAt(at), index.lengthOf(at));
    // The next patch may be in the same chunk.
    at = Math.max(0, at - 1);
  }
}

function add(plan: UpdatePlan, id: Uint8Array, lengthBytes: number): void {
  if (plan.ids.has(id)) return;
  plan.ids.add(id);
  plan.bytes += lengthBytes;
}

/** Like devices: no windows if the chunks of the patches aren't worth it, or the patches themselves aren't. */
function worthIt(
  windows: readonly PlacedWindow[],
  target: ChunkIndex,
  { patchIndex }: HeldDelta,
): readonly PlacedWindow[] {
  const givenBytes = windows.reduce((sum, window) => sum + lengthOf(window, target), 0);
  const patchBytes = windows.reduce((sum, { patchLength }) => sum + patchLength, 0);
  const bytes = patchChunkBytes(patchIndex, windows);
  return isWorthFetching({ bytes, patchBytes, givenBytes }) && patchBytes <= 2 * givenBytes ? windows : [];
}

function lengthOf({ firstChunk, chunkCount }: PlacedWindow, target: ChunkIndex): number {
  return target.endOf(firstChunk + chunkCount - 1) - target.startOf(firstChunk);
}

/** None if the windows don't fit the indexes: devices refuse them as well. */
function placedWindows(recipe: Recipe, base: ChunkIndex, target: ChunkIndex): PlacedWindow[] {
  try {
    return windowsOf(recipe, base, target);
  } catch (error) {
    if (error instanceof SitecastError) return [];
    throw error;
  }
}

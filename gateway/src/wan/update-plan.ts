import { ChunkIdSet, type ChunkIndex, eachId } from '@sitecast/shared/content';
import { type Recipe, windowsOf } from '@sitecast/shared/delta';
import { SitecastError } from '@sitecast/shared/errors';

/** A delta whose files are here. */
export interface HeldDelta {
  recipe: Recipe;
  patchIndex: ChunkIndex;
}

/** The chunks that devices of one running release fetch for an update, by their own plans or about so. */
export interface UpdatePlan {
  ids: ChunkIdSet;
  /** Of the plain chunks. */
  bytes: number;
}

/**
 * What devices that run `base` fetch of an image: what their own slot lacks, by patches where there is a delta. Devices plan alone: one
 * that can't apply a patch, or whose slot was altered, fetches more, when it asks for it.
 */
export function planUpdate(
  target: ChunkIndex,
  base: ChunkIndex | undefined,
  delta: HeldDelta | undefined,
): UpdatePlan {
  const windows = base && delta ? placedWindows(delta.recipe, base, target) : undefined;
  const patched = new Uint8Array(target.count);
  for (const { firstChunk, chunkCount } of windows ?? [])
    patched.fill(1, firstChunk, firstChunk + chunkCount);
  const plan: UpdatePlan = { ids: new ChunkIdSet(), bytes: 0 };
  if (windows && delta) addAll(plan, delta.patchIndex);
  for (let at = 0; at < target.count; at += 1) {
    const id = target.idAt(at);
    if (patched[at] === 0 && base?.find(id) === undefined) add(plan, id, target.lengthOf(at));
  }
  return plan;
}

/** One plan for all of them: what several need is fetched once. */
export function joined(plans: readonly UpdatePlan[]): UpdatePlan {
  const ids = new ChunkIdSet();
  for (const plan of plans) for (const id of eachId(plan.ids.bytes())) ids.add(id);
  return { ids, bytes: plans.reduce((sum, { bytes }) => sum + bytes, 0) };
}

function addAll(plan: UpdatePlan, index: ChunkIndex): void {
  for (let at = 0; at < index.count; at += 1) add(plan, index.idAt(at), index.lengthOf(at));
}

function add(plan: UpdatePlan, id: Uint8Array, lengthBytes: number): void {
  if (plan.ids.has(id)) return;
  plan.ids.add(id);
  plan.bytes += lengthBytes;
}

function placedWindows(recipe: Recipe, base: ChunkIndex, target: ChunkIndex) {
  try {
    return windowsOf(recipe, base, target);
  } catch (error) {
    // Devices refuse it as well.
    if (error instanceof SitecastError) return undefined;
    throw error;
  }
}

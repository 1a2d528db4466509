import { FRAME_OVERHEAD_BYTES, longestFrameBytes } from '@sitecast/shared/content';
import type { PlanBytes } from '@sitecast/shared/delta';
import type { Spending } from '../state/spending.ts';
import type { UpdateWays } from '../state/status.ts';
import type { Deltas } from './deltas.ts';
import type { FrameSizes } from './frame-sizes.ts';
import type { Release } from './releases.ts';
import type { Costs, Schedule } from './schedule.ts';
import type { FillPlan } from './slot-filler.ts';
import type { UpdateContext } from './update-checker.ts';

/** How much more than planned an update may cost, as a share of the plan: estimates are no more exact than that. */
const MARGIN = 0.05;
/** The shortest possible zstd frame (RFC 8878, 3.1.1). */
const MIN_FRAME_BYTES = 9;

interface CostDependencies {
  schedule: Pick<Schedule, 'checkDeltas' | 'checkSize'>;
  deltas: Pick<Deltas, 'mayBeMade' | 'patchIndexBytes'>;
  frameSizes: Pick<FrameSizes, 'estimate'>;
  spending: Pick<Spending, 'leftBytes' | 'spentBytes'>;
}

/**
 * What a plan costs, if it may cost that.
 * @param onWays called with what is known, also where the device then waits
 * @throws CycleEnd (`waiting`) where the plan costs more than it may, or where the device pays for bytes and deltas are still being made
 */
export async function checkedCosts(
  deps: CostDependencies,
  { release, context, signal }: { release: Release; context: UpdateContext; signal: AbortSignal },
  planned: FillPlan,
  onWays: (ways: UpdateWays) => void,
): Promise<Costs> {
  const { schedule, deltas, spending } = deps;
  const { order, delta } = release;
  const { booted, rollouts } = context.facts;
  const { bytes } = planned.plan;
  const about = (isAsking: boolean) => costsOf(deps, release, planned, { isAsking, signal });
  const isWorthWaiting = bytes.fetched > 0 && !delta && deltas.mayBeMade(booted, order.release.counter);
  if (isWorthWaiting) {
    onWays(waysOf(bytes, await about(false), spending));
    schedule.checkDeltas(rollouts, order);
  }
  // Only after the first checks: a gateway that is asked for the lengths of frames fetches those chunks.
  const costs = await about(true);
  onWays(waysOf(bytes, costs, spending));
  schedule.checkSize(order, costs, { fetchBytes: bytes.fetched + bytes.patches, spending });
  return costs;
}

/**
 * What a plan costs. A recipe says how long the frames of chunks are. Without one, they are assumed to be as long as the chunks; where that
 * would exceed a bound, a gateway is asked for the lengths of some frames.
 * @param isAsking false: no gateway is asked
 * @throws the reason of `signal`
 */
async function costsOf(
  { deltas, frameSizes, spending }: CostDependencies,
  { index, indexSha256, delta }: Pick<Release, 'index' | 'indexSha256' | 'delta'>,
  { plan, hasFrameBytes }: Pick<FillPlan, 'plan' | 'hasFrameBytes'>,
  { isAsking, signal }: { isAsking: boolean; signal: AbortSignal },
): Promise<Costs> {
  const { patches, fetched } = plan.bytes;
  const files = delta && plan.windows.length > 0 ? await deltas.patchIndexBytes(delta, signal) : 0;
  const chunks: number[] = [];
  for (let at = 0; at < index.count; at += 1) if (plan.wayOf(at) === 'fetch') chunks.push(at);
  const longestBytes = chunks.reduce((longest, at) => Math.max(longest, index.lengthOf(at)), 0);
  // A chunk is fetched only if its longest possible frame still fits the bound. The chunks of patches are compressed already: their frames
  // are no shorter than that, and are counted as a whole; so are chunks whose frames nothing tells.
  const common = (frames: number, isWhole = fetched === 0) => ({
    patches,
    files,
    frames,
    marginBytes: Math.ceil(MARGIN * (patches + frames)) + (isWhole ? 0 : longestFrameBytes(longestBytes)),
  });
  if (hasFrameBytes || fetched === 0) {
    const { frames } = plan.bytes;
    return { ...common(frames), framesBy: 'recipe', leastFrames: frames };
  }
  const frames = fetched + FRAME_OVERHEAD_BYTES * chunks.length;
  const isAllowed = patches + files + frames <= spending.leftBytes;
  const estimate =
    isAsking && !isAllowed ? await frameSizes.estimate({ index, indexSha256 }, chunks, signal) : undefined;
  if (!estimate)
    return { ...common(frames, true), framesBy: 'plain', leastFrames: MIN_FRAME_BYTES * chunks.length };
  const { bytes, leastBytes } = estimate;
  return { ...common(bytes), framesBy: 'sample', leastFrames: leastBytes };
}

/** The total cost of an update: what is spent by now, and what is to come. */
export function totalBytes(
  { patches, files, frames }: Pick<Costs, 'patches' | 'files' | 'frames'>,
  { spentBytes }: Pick<Spending, 'spentBytes'>,
): number {
  return spentBytes + files + patches + frames;
}

/** The plan in the form of the status and of `check`. */
function waysOf(
  bytes: PlanBytes,
  { patches, files, frames, framesBy }: Costs,
  { spentBytes }: Pick<Spending, 'spentBytes'>,
): UpdateWays {
  return { ...bytes, patches, files, frames, framesBy, isEstimate: true, spentBytes };
}

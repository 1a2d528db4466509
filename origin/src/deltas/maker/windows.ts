import { type ChunkId, type ChunkIndex, sameChunkId, sha256 } from '@sitecast/shared/content';
import type { WindowPlace } from '../maker-port.ts';

/** How a target is cut into windows. */
export interface WindowSizes {
  readonly maxTargetBytes: number;
  readonly maxBaseBytes: number;
  /** Two windows with less than this between them become one. */
  readonly maxGapBytes: number;
}

/** A run of chunks of the target, in bytes and chunk numbers. */
export type Stretch = Omit<WindowPlace, 'baseOffset' | 'baseLength'>;

/** Chunks of the target that neither the base holds anywhere, nor are all zero: true at their numbers. */
export function missingChunks(base: ChunkIndex, target: ChunkIndex): boolean[] {
  const zeros = new Map<number, ChunkId>();
  const isZero = (at: number): boolean => {
    const length = target.lengthOf(at);
    let id = zeros.get(length);
    if (id === undefined) {
      // Runs of zeros are cut to the largest size, but for their end: other lengths are hardly ever asked for.
      if (length !== target.sizes.maxBytes) return false;
      id = sha256(new Uint8Array(length));
      zeros.set(length, id);
    }
    return sameChunkId(target.idAt(at), id);
  };
  return Array.from(
    { length: target.count },
    (_, at) => base.find(target.idAt(at)) === undefined && !isZero(at),
  );
}

/** Cuts the missing chunks into stretches of at most `maxTargetBytes`; short gaps of chunks that are there are filled. */
export function cutStretches(
  target: ChunkIndex,
  missing: readonly boolean[],
  sizes: WindowSizes,
  /** Whether a stretch from `from` may go on from `at` to `to`; all are offsets in the target. */
  mayJoin: (from: number, at: number, to: number) => boolean = () => true,
): Stretch[] {
  const stretches: { first: number; end: number }[] = [];
  for (let at = 0; at < target.count; at++) {
    if (missing[at] !== true) continue;
    const last = stretches.at(-1);
    const fits =
      last !== undefined &&
      target.startOf(at) - target.endOf(last.end - 1) <= sizes.maxGapBytes &&
      target.endOf(at) - target.startOf(last.first) <= sizes.maxTargetBytes &&
      mayJoin(target.startOf(last.first), target.startOf(at), target.endOf(at));
    if (fits) last.end = at + 1;
    else stretches.push({ first: at, end: at + 1 });
  }
  return stretches.map(({ first, end }) => ({
    firstChunk: first,
    chunkCount: end - first,
    targetOffset: target.startOf(first),
    targetLength: target.endOf(end - 1) - target.startOf(first),
  }));
}

/** A base range is this many times as long as the target of its window, at least MIN_BASE_BYTES and at most `maxBaseBytes`. */
const BASE_FACTOR = 4;
const MIN_BASE_BYTES = 1024 * 1024;

/** What a range may be wider than the hits that decide about it, at both sides together. */
const MARGIN_BYTES = 128 * 1024;

/**
 * The range of the base around which most of `hits` lie.
 * @param hits offsets in the base, rising
 * @param near where to look without hits
 */
export function baseRange(
  hits: ArrayLike<number>,
  near: number,
  lengthBytes: number,
  baseBytes: number,
): { baseOffset: number; baseLength: number } {
  const baseLength = Math.min(lengthBytes, baseBytes);
  const reach = Math.max(0, baseLength - MARGIN_BYTES);
  let most = 0;
  let middle = near;
  let first = 0;
  for (let last = 0; last < hits.length; last++) {
    while ((hits[last] ?? 0) - (hits[first] ?? 0) > reach) first++;
    if (last - first + 1 <= most) continue;
    most = last - first + 1;
    middle = ((hits[first] ?? 0) + (hits[last] ?? 0)) / 2;
  }
  const baseOffset = Math.max(0, Math.min(Math.floor(middle - baseLength / 2), baseBytes - baseLength));
  return { baseOffset, baseLength };
}

/**
 * How much of the base a window reads, in whole bytes: more finds hardly more, and takes longer.
 * @param targetLength of the opened target, which is an estimate and may have a fraction
 */
export function baseLengthOf(targetLength: number, maxBaseBytes: number): number {
  return Math.min(maxBaseBytes, Math.max(MIN_BASE_BYTES, Math.ceil(BASE_FACTOR * targetLength)));
}

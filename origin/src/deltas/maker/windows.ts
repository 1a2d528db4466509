import { type ChunkId, type ChunkIndex, sameChunkId, sha256 } from '@sitecast/shared/content';
import type { WindowPlace } from '../maker-port.ts';

/** How a target is cut into windows. */
export interface WindowSizes {
  readonly maxTargetBytes: number;
  readonly maxBaseBytes: number;
  /** Windows with a gap of fewer bytes between them are joined. */
  readonly maxGapBytes: number;
}

/** A run of chunks of the target, in bytes and chunk numbers. */
export type Stretch = Omit<WindowPlace, 'baseOffset' | 'baseLength'>;

/** By chunk number: true for chunks of the target that are not in the base and are not all zero. */
export function missingChunks(base: ChunkIndex, target: ChunkIndex): boolean[] {
  const zeros = new Map<number, ChunkId>();
  const isZero = (at: number): boolean => {
    const length = target.lengthOf(at);
    let id = zeros.get(length);
    if (id === undefined) {
      // A run of zeros is cut into chunks of the largest size, except for its end. Other lengths are too rare to look for.
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

/** Cuts the missing chunks into stretches of at most `maxTargetBytes`. Short gaps of chunks that aren't missing are filled. */
export function cutStretches(
  target: ChunkIndex,
  missing: readonly boolean[],
  sizes: WindowSizes,
  /** Whether a stretch that begins at `from` may be extended from `at` to `to`; all are offsets in the target. */
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

/** How many times as long as its window's target a base range is; at least MIN_BASE_BYTES and at most `maxBaseBytes`. */
const BASE_FACTOR = 4;
const MIN_BASE_BYTES = 1024 * 1024;

/** How much longer than the hits that place it a range may be, counting both sides. */
const MARGIN_BYTES = 128 * 1024;

/**
 * The range of the base that has most of `hits` near its middle.
 * @param hits offsets in the base, rising
 * @param near where the range lies if there are no hits
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
 * How much of the base a window reads, in whole bytes. A longer range would find hardly more, and take longer.
 * @param targetLength of the opened target: an estimate, perhaps with a fraction
 */
export function baseLengthOf(targetLength: number, maxBaseBytes: number): number {
  return Math.min(maxBaseBytes, Math.max(MIN_BASE_BYTES, Math.ceil(BASE_FACTOR * targetLength)));
}

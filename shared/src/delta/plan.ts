import { type ChunkIndex, FRAME_OVERHEAD_BYTES } from '../content/index.ts';
import { zeroChunks } from './zero-chunks.ts';

/**
 * How a chunk of the target gets to its place. `inPlace`: it is there. `repeat`: it is written together with an earlier place of the same
 * chunk. `zero`: it holds zeros only. `booted`, `other`: it is copied from the slot that runs, or within the slot that is written.
 * `window`: a patch gives it. `fetch`: it is fetched as a frame.
 */
export const CHUNK_WAYS = ['inPlace', 'repeat', 'zero', 'booted', 'other', 'window', 'fetch'] as const;
export type ChunkWay = (typeof CHUNK_WAYS)[number];

/** What a plan needs to know of a window: chunks `[firstChunk, firstChunk + chunkCount)` of the target, and costs in bytes. */
export interface WindowCosts {
  readonly firstChunk: number;
  readonly chunkCount: number;
  readonly patchLength: number;
  /** How many bytes of its patch this device has fetched already. Default: 0. */
  readonly keptBytes?: number;
  /** What fetching its chunks as frames would cost. */
  readonly frameBytes: number;
}

export interface PlanInput {
  target: ChunkIndex;
  /** Whether chunk number `at` is in its place already, with the right content. */
  isInPlace: (at: number) => boolean;
  /** Chunks that the running slot is said to hold. Reading shows whether it still does. */
  booted?: ChunkIndex | undefined;
  /** Chunks that the slot which is written held before. */
  other?: ChunkIndex | undefined;
  /** The recipe's windows, in the target's order, without overlap; empty: no recipe. */
  windows?: readonly WindowCosts[];
  /** Whether this device can apply the window at that place of the list; undefined: all of them. */
  canApply?: (window: number) => boolean;
  /** Bytes of the frames of all chunks that neither base nor windows give; undefined: there is no recipe. */
  restFrameBytes?: number | undefined;
}

/** Lengths in bytes: of the target's chunks, by how they get to their place; and of what is fetched for them. */
export interface PlanBytes {
  image: number;
  inPlace: number;
  zero: number;
  booted: number;
  other: number;
  patched: number;
  fetched: number;
  /** Bytes of patches to fetch: of the windows that are used, less what this device has fetched already. */
  patches: number;
  /** Bytes of chunks to fetch: estimated from the recipe; without one, their plain length as an upper bound. */
  frames: number;
}

export interface Plan {
  readonly bytes: PlanBytes;
  /** Places in `windows` of the windows that are used, in order. */
  readonly windows: readonly number[];
  wayOf(at: number): ChunkWay;
}

/**
 * Finds the cheapest way for each chunk (a pure function). What the slots hold costs nothing. A window is used only where its patch costs
 * less than the frames of those chunks of it that are still missing.
 */
export function planUpdate(input: PlanInput): Plan {
  const ways = waysWithoutWindows(input);
  const { windows = [], canApply = () => true } = input;
  const used = windows.flatMap((window, at) => (canApply(at) && useWindow(window, input, ways) ? [at] : []));
  const bytes = bytesOf(input, ways);
  bytes.patches = used.reduce((sum, at) => sum + (windows[at] ? patchBytes(windows[at]) : 0), 0);
  return { bytes, windows: used, wayOf: at => wayAt(ways, at) };
}

const patchBytes = ({ patchLength, keptBytes = 0 }: WindowCosts): number =>
  Math.max(0, patchLength - keptBytes);

const codeOf = (way: ChunkWay): number => CHUNK_WAYS.indexOf(way);
const FETCH = codeOf('fetch');
const WINDOW = codeOf('window');
const wayAt = (ways: Uint8Array, at: number): ChunkWay => CHUNK_WAYS[ways[at] ?? FETCH] ?? 'fetch';

function waysWithoutWindows({ target, isInPlace, booted, other }: PlanInput): Uint8Array {
  const ways = new Uint8Array(target.count);
  const isZero = zeroChunks(target);
  for (let first = 0; first < target.count; first += 1) {
    // Each chunk is handled once, together with all of its places.
    if (target.find(target.idAt(first)) !== first) continue;
    let way: ChunkWay = 'fetch';
    let hasPlace = false;
    for (let at: number | undefined = first; at !== undefined; at = target.nextSame(at))
      hasPlace ||= isInPlace(at);
    if (isZero[first] === 1) way = 'zero';
    else if (hasPlace) way = 'other';
    else if (holds(booted, target, first)) way = 'booted';
    else if (holds(other, target, first)) way = 'other';
    let isFirstMissing = true;
    for (let at: number | undefined = first; at !== undefined; at = target.nextSame(at)) {
      if (isInPlace(at)) continue;
      ways[at] = codeOf(way === 'fetch' && !isFirstMissing ? 'repeat' : way);
      isFirstMissing = false;
    }
  }
  return ways;
}

/** Whether the source has the chunk with the same length. Another length for the same id would mean that one signer lies. */
function holds(source: ChunkIndex | undefined, target: ChunkIndex, at: number): boolean {
  const found = source?.find(target.idAt(at));
  return source !== undefined && found !== undefined && source.lengthOf(found) === target.lengthOf(at);
}

function useWindow(window: WindowCosts, { target }: PlanInput, ways: Uint8Array): boolean {
  const { firstChunk, chunkCount, frameBytes } = window;
  let [allBytes, missingBytes] = [0, 0];
  const end = firstChunk + chunkCount;
  for (let at = firstChunk; at < end; at += 1) {
    allBytes += target.lengthOf(at);
    if (ways[at] === FETCH) missingBytes += target.lengthOf(at);
  }
  // A recipe that claims more than frames can have would make expensive patches look cheap.
  const longestBytes = Math.min(frameBytes, allBytes + chunkCount * FRAME_OVERHEAD_BYTES);
  const costBytes = allBytes === 0 ? 0 : (longestBytes * missingBytes) / allBytes;
  if (missingBytes === 0 || patchBytes(window) >= costBytes) return false;
  for (let at = firstChunk; at < end; at += 1) if (ways[at] === FETCH) ways[at] = WINDOW;
  return true;
}

function bytesOf(input: PlanInput, ways: Uint8Array): PlanBytes {
  const { target } = input;
  const sums = { inPlace: 0, repeat: 0, zero: 0, booted: 0, other: 0, window: 0, fetch: 0 };
  for (let at = 0; at < target.count; at += 1) sums[wayAt(ways, at)] += target.lengthOf(at);
  const { inPlace, zero, booted, other } = sums;
  return {
    image: target.lengthBytes,
    inPlace,
    zero,
    booted,
    // A repeated chunk is written from memory with the first one.
    other: other + sums.repeat,
    patched: sums.window,
    fetched: sums.fetch,
    patches: 0,
    frames: frameBytes(input, ways),
  };
}

function frameBytes({ target, windows = [], restFrameBytes, booted }: PlanInput, ways: Uint8Array): number {
  let bytes = 0;
  let at = 0;
  /** Plain lengths of the chunks that are the recipe's rest: of all, and of those to be fetched. */
  let [restBytes, restFetched] = [0, 0];
  const rest = (until: number): void => {
    for (; at < until; at += 1) {
      const lengthBytes = target.lengthOf(at);
      if (ways[at] === FETCH) restFetched += lengthBytes;
      if (!holds(booted, target, at)) restBytes += lengthBytes;
    }
  };
  for (const { firstChunk, chunkCount, frameBytes: ofWindow } of windows) {
    rest(firstChunk);
    let [allBytes, fetched] = [0, 0];
    for (; at < firstChunk + chunkCount; at += 1) {
      allBytes += target.lengthOf(at);
      if (ways[at] === FETCH) fetched += target.lengthOf(at);
    }
    bytes += allBytes === 0 ? 0 : (ofWindow * fetched) / allBytes;
  }
  rest(target.count);
  const share = restBytes === 0 ? 1 : restFetched / restBytes;
  return Math.ceil(
    bytes + (restFrameBytes === undefined ? restFetched : Math.min(restFetched, restFrameBytes * share)),
  );
}

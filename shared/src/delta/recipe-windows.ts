import type { ChunkIndex } from '../content/index.ts';
import { SitecastError } from '../errors.ts';
import type { ByteReader, ByteWriter } from './bytes.ts';
import {
  MAX_PATCH_BYTES,
  MAX_RECIPE_WINDOWS,
  MAX_WINDOW_BASE_BYTES,
  MAX_WINDOW_TARGET_BYTES,
} from './limits.ts';

// The windows, as columns: uint count, then for all windows
//   uint chunks between the end of the window before and this one's first, uint chunks - 1
//   int  base offset, less the end of the base range before
//   uint base length, uint patch length, uint frame bytes, uint encoders
const MAX_CHUNKS = 2 ** 24;
/** 16 TiB, as an image may be at the most. */
const MAX_OFFSET = 2 ** 44;

/** A run of consecutive chunks of the target that a patch makes from a range of the base. */
export interface RecipeWindow {
  /** Number of its first chunk in the target's index. */
  readonly firstChunk: number;
  readonly chunkCount: number;
  /** The range of the base image that the patch reads, in bytes; at most MAX_WINDOW_BASE_BYTES. The device needs all of it. */
  readonly baseOffset: number;
  readonly baseLength: number;
  /** Length of its patch, in bytes. */
  readonly patchLength: number;
  /** Bytes of the frames of its chunks: the cost without the patch. */
  readonly frameBytes: number;
  /** Bit n is set where encoder n of the recipe's list is needed. */
  readonly encoderBits: number;
}

/** A window with its places in the images and in the patches, checked against both indexes. */
export interface PlacedWindow extends RecipeWindow {
  /** Where its chunks lie in the target image, in bytes. */
  readonly targetOffset: number;
  readonly targetLength: number;
  /** Where its patch begins in the concatenated patches, in bytes. */
  readonly patchOffset: number;
}

/**
 * Which windows a device can apply: those that need no encoder but its own.
 * @param recipeEncoders the recipe's list, to which the windows' bits refer
 * @param encoders those that the device has
 */
export function applicableWith(
  recipeEncoders: readonly string[],
  encoders: readonly string[],
): (window: Pick<RecipeWindow, 'encoderBits'>) => boolean {
  const lacking = recipeEncoders.flatMap((name, bit) => (encoders.includes(name) ? [] : [2 ** bit]));
  return ({ encoderBits }) => lacking.every(bit => Math.floor(encoderBits / bit) % 2 === 0);
}

export function writeWindows(writer: ByteWriter, windows: readonly RecipeWindow[]): void {
  writer.uint(windows.length);
  let chunk = 0;
  for (const { firstChunk, chunkCount } of windows) {
    writer.uint(firstChunk - chunk);
    chunk = firstChunk + chunkCount;
  }
  for (const { chunkCount } of windows) writer.uint(chunkCount - 1);
  let end = 0;
  for (const { baseOffset, baseLength } of windows) {
    writer.int(baseOffset - end);
    end = baseOffset + baseLength;
  }
  for (const { baseLength } of windows) writer.uint(baseLength);
  for (const { patchLength } of windows) writer.uint(patchLength);
  for (const { frameBytes } of windows) writer.uint(frameBytes);
  for (const { encoderBits } of windows) writer.uint(encoderBits);
}

/** @throws SITECAST_RECIPE_TRUNCATED, SITECAST_RECIPE_INVALID */
export function readWindows(reader: ByteReader, encoderCount: number): RecipeWindow[] {
  const count = reader.uint('the number of windows', MAX_RECIPE_WINDOWS);
  const column = (read: () => number) => Array.from({ length: count }, read);
  const gaps = column(() => reader.uint('the chunks before a window', MAX_CHUNKS));
  const counts = column(() => reader.uint('the chunks of a window', MAX_CHUNKS) + 1);
  const steps = column(() => reader.int("a base range's offset", MAX_OFFSET));
  const baseLengths = column(() => reader.uint("a base range's length", MAX_WINDOW_BASE_BYTES));
  const patchLengths = column(() => reader.uint("a patch's length", MAX_PATCH_BYTES));
  const frameBytes = column(() => reader.uint("a window's frame bytes"));
  const encoderBits = column(() => reader.uint("a window's encoders", 2 ** encoderCount - 1));
  let chunk = 0;
  let end = 0;
  return counts.map((chunkCount, at) => {
    const baseOffset = end + (steps[at] ?? 0);
    if (baseOffset < 0 || baseOffset > MAX_OFFSET) throw reader.invalid('a base range begins nowhere');
    const firstChunk = chunk + (gaps[at] ?? 0);
    const baseLength = baseLengths[at] ?? 0;
    const patchLength = patchLengths[at] ?? 0;
    if (patchLength === 0) throw reader.invalid('a patch is empty');
    chunk = firstChunk + chunkCount;
    end = baseOffset + baseLength;
    return {
      firstChunk,
      chunkCount,
      baseOffset,
      baseLength,
      patchLength,
      frameBytes: frameBytes[at] ?? 0,
      encoderBits: encoderBits[at] ?? 0,
    };
  });
}

/** @throws SITECAST_RECIPE_WINDOWS where a window doesn't lie inside of both images, or makes too many bytes */
export function checkedWindows(
  windows: readonly RecipeWindow[],
  baseImageBytes: number,
  targetIndex: ChunkIndex,
): PlacedWindow[] {
  let patchOffset = 0;
  return windows.map((window, at) => {
    const last = window.firstChunk + window.chunkCount - 1;
    if (last >= targetIndex.count) throw outside(at, 'ends after the last chunk of the target');
    if (window.baseOffset + window.baseLength > baseImageBytes)
      throw outside(at, 'reads beyond the end of the base');
    const targetOffset = targetIndex.startOf(window.firstChunk);
    const targetLength = targetIndex.endOf(last) - targetOffset;
    if (targetLength > MAX_WINDOW_TARGET_BYTES)
      throw outside(at, `makes ${targetLength} bytes, at most ${MAX_WINDOW_TARGET_BYTES}`);
    const placed = { ...window, targetOffset, targetLength, patchOffset };
    patchOffset += window.patchLength;
    return placed;
  });
}

function outside(at: number, what: string): SitecastError {
  return new SitecastError('badInput', 'SITECAST_RECIPE_WINDOWS', `window ${at} of the recipe ${what}`, {
    data: { window: at },
  });
}

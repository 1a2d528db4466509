import { type ChunkIndex, MAX_CHUNK_BYTES } from '../content/index.ts';
import type { PlacedWindow } from './recipe-windows.ts';

type PatchPlace = Pick<PlacedWindow, 'patchOffset' | 'patchLength'>;

/**
 * Numbers of the chunks of a patch index that a patch lies in.
 * @returns undefined where it lies beyond the end
 */
export function patchChunksOf(
  index: ChunkIndex,
  { patchOffset, patchLength }: PatchPlace,
): number[] | undefined {
  const first = index.chunkAt(patchOffset);
  const last = index.chunkAt(patchOffset + patchLength - 1);
  if (first === undefined || last === undefined) return undefined;
  return Array.from({ length: last - first + 1 }, (_, at) => first + at);
}

/**
 * Bytes of the chunks that hold patches, each chunk counted once. Patches share chunks, so the chunks may be longer than the patches: a
 * hostile recipe can put each short patch into a chunk of its own, filled up with a patch that no device can apply.
 * @returns infinite where a patch lies beyond the end
 */
export function patchChunkBytes(index: ChunkIndex, windows: readonly PatchPlace[]): number {
  const chunks = new Set<number>();
  for (const window of windows) {
    const ofWindow = patchChunksOf(index, window);
    if (ofWindow === undefined) return Number.POSITIVE_INFINITY;
    for (const at of ofWindow) chunks.add(at);
  }
  return [...chunks].reduce((sum, at) => sum + index.lengthOf(at), 0);
}

/**
 * Whether it is worth fetching these chunks of patches. Small patches share chunks, so the chunks may be longer than the patches in them.
 * In that case the plain bytes that the patches give must be longer than the chunks, or the difference small.
 * @param bytes of the chunks; @param patchBytes of the patches in them that are needed; @param givenBytes plain bytes that these give
 */
export function isWorthFetching({
  bytes,
  patchBytes,
  givenBytes,
}: {
  bytes: number;
  patchBytes: number;
  givenBytes: number;
}): boolean {
  return bytes <= Math.max(givenBytes, 2 * patchBytes + MAX_CHUNK_BYTES);
}

import {
  type ChunkIndex,
  ChunkIndexBuilder,
  chunkIdOf,
  chunkIdToHex,
  sha256,
} from '@sitecast/shared/content';
import { encodeRecipe, encodersIn, type RecipeRelease } from '@sitecast/shared/delta';
import type { WindowPlace } from '../maker-port.ts';
import { missingChunks } from './windows.ts';

/** A window that a recipe can name. */
export interface ComposedWindow extends WindowPlace {
  readonly frameBytes: number;
  readonly patch: Uint8Array;
}

/** A delta as it is published. */
export interface ComposedDelta {
  readonly recipe: Buffer;
  /** The index of all patches, one after the other. An index lists at least one chunk: without a window it is one byte. */
  readonly patchIndex: ChunkIndex;
  /** Plain bytes of the chunks that the patch index lists, in its order, each at most MAX_CHUNK_BYTES. */
  readonly chunks: readonly Uint8Array[];
}

/** Small patches share a chunk up to this length. A patch that is longer has chunks of its own. */
const PACKED_BYTES = 256 * 1024;
const LONGEST_CHUNK_BYTES = 1024 * 1024;
const PATCH_CHUNK_SIZES = { minBytes: 1, avgBytes: PACKED_BYTES, maxBytes: LONGEST_CHUNK_BYTES };
/** In the place of patches, where there are none. No device fetches it. */
const NO_PATCHES = [Buffer.of(0)];

/**
 * Puts the recipe and the patches together.
 * @param head `indexSha256` of both releases is that of the indexes given
 * @param windows all windows that have a patch, in the target's order
 * @param frameBytes bytes of the frame of chunk number `chunk` of the target
 * @throws SITECAST_RECIPE_… where windows don't fit the indexes
 */
export async function composeDelta(
  head: { readonly product: string; readonly from: RecipeRelease; readonly to: RecipeRelease },
  indexes: { readonly base: ChunkIndex; readonly target: ChunkIndex },
  windows: readonly ComposedWindow[],
  frameBytes: (chunk: number) => number | Promise<number>,
): Promise<ComposedDelta> {
  const chunks = windows.length > 0 ? packPatches(windows.map(({ patch }) => patch)) : NO_PATCHES;
  const patchIndex = indexOf(chunks);
  const rest = missingChunks(indexes.base, indexes.target);
  for (const { firstChunk, chunkCount } of windows) rest.fill(false, firstChunk, firstChunk + chunkCount);
  let restFrameBytes = 0;
  for (const [chunk, isMissing] of rest.entries()) if (isMissing) restFrameBytes += await frameBytes(chunk);
  const needed = windows.map(({ patch }) => encodersIn(patch));
  const encoders = [...new Set(needed.flat())].sort();
  const bitsOf = (names: readonly string[]): number =>
    names.reduce((bits, name) => bits + 2 ** encoders.indexOf(name), 0);
  const recipe = encodeRecipe(
    {
      ...head,
      patchIndexSha256: chunkIdToHex(sha256(patchIndex.encode())),
      encoders,
      restFrameBytes,
    },
    windows.map((window, at) => ({
      ...window,
      patchLength: window.patch.length,
      encoderBits: bitsOf(needed[at] ?? []),
    })),
    indexes,
  );
  return { recipe, patchIndex, chunks };
}

/** Cuts the concatenated patches into chunks: at the ends of patches, but for those that are longer than a chunk. */
function packPatches(patches: readonly Uint8Array[]): Buffer[] {
  const chunks: Buffer[] = [];
  let packed: Uint8Array[] = [];
  let packedBytes = 0;
  const endChunk = (): void => {
    if (packedBytes > 0) chunks.push(Buffer.concat(packed));
    packed = [];
    packedBytes = 0;
  };
  for (const patch of patches) {
    if (packedBytes + patch.length > PACKED_BYTES) endChunk();
    for (let from = 0; from < patch.length; from += LONGEST_CHUNK_BYTES) {
      const piece = patch.subarray(from, from + LONGEST_CHUNK_BYTES);
      packed.push(piece);
      packedBytes += piece.length;
      if (packedBytes >= PACKED_BYTES) endChunk();
    }
  }
  endChunk();
  return chunks;
}

function indexOf(chunks: readonly Uint8Array[]): ChunkIndex {
  const builder = new ChunkIndexBuilder(PATCH_CHUNK_SIZES);
  let end = 0;
  for (const chunk of chunks) {
    end += chunk.length;
    builder.add(chunkIdOf(chunk), end);
  }
  return builder.finish();
}

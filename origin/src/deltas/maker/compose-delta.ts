import {
  type ChunkIndex,
  ChunkIndexBuilder,
  chunkIdOf,
  chunkIdToHex,
  sha256,
} from '@sitecast/shared/content';
import { encodeRecipe, encodersIn } from '@sitecast/shared/delta';
import type { ComposedWindow, DeltaMaker, MadeWindow } from '../maker-port.ts';
import { missingChunks } from './windows.ts';

/** Small patches share chunks up to this length. A longer patch has chunks of its own. */
const PACKED_BYTES = 256 * 1024;
const LONGEST_CHUNK_BYTES = 1024 * 1024;
const PATCH_CHUNK_SIZES = { minBytes: 1, avgBytes: PACKED_BYTES, maxBytes: LONGEST_CHUNK_BYTES };
/** Content of the patch index where there are no patches. No device fetches it. */
const NO_PATCHES = Buffer.of(0);

/** See `DeltaMaker.composeDelta`. */
export const composeDelta: DeltaMaker['composeDelta'] = async (head, indexes, windows, frameBytes) => {
  const rest = missingChunks(indexes.base, indexes.target);
  for (const { firstChunk, chunkCount } of windows) rest.fill(false, firstChunk, firstChunk + chunkCount);
  let restFrameBytes = 0;
  for (const [chunk, isMissing] of rest.entries()) if (isMissing) restFrameBytes += await frameBytes(chunk);
  const needed: (readonly string[])[] = [];
  const patchIndex = await indexOf(packPatches(windows, patch => needed.push(encodersIn(patch))));
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
    windows.map((window, at) => ({ ...window, encoderBits: bitsOf(needed[at] ?? []) })),
    indexes,
  );
  return { recipe, patchIndex, chunks: () => packPatches(windows) };
};

/** A window whose patch stays in memory. */
export function composedWindow({
  patch,
  ...window
}: Omit<MadeWindow, 'patch'> & { patch: Uint8Array }): ComposedWindow {
  return { ...window, patchLength: patch.length, readPatch: () => Promise.resolve(patch) };
}

/** Cuts the concatenated patches into chunks at the ends of patches; a patch that is longer than a chunk is cut within. */
async function* packPatches(
  windows: readonly ComposedWindow[],
  onPatch: (patch: Uint8Array) => void = () => {},
): AsyncGenerator<Uint8Array> {
  if (windows.length === 0) yield NO_PATCHES;
  let packed: Uint8Array[] = [];
  let packedBytes = 0;
  const endChunk = (): Buffer => {
    const chunk = Buffer.concat(packed);
    packed = [];
    packedBytes = 0;
    return chunk;
  };
  for (const { readPatch } of windows) {
    const patch = await readPatch();
    onPatch(patch);
    if (packedBytes > 0 && packedBytes + patch.length > PACKED_BYTES) yield endChunk();
    for (let from = 0; from < patch.length; from += LONGEST_CHUNK_BYTES) {
      const piece = patch.subarray(from, from + LONGEST_CHUNK_BYTES);
      packed.push(piece);
      packedBytes += piece.length;
      if (packedBytes >= PACKED_BYTES) yield endChunk();
    }
  }
  if (packedBytes > 0) yield endChunk();
}

async function indexOf(chunks: AsyncIterable<Uint8Array>): Promise<ChunkIndex> {
  const builder = new ChunkIndexBuilder(PATCH_CHUNK_SIZES);
  let end = 0;
  for await (const chunk of chunks) {
    end += chunk.length;
    builder.add(chunkIdOf(chunk), end);
  }
  return builder.finish();
}

import { ChunkIndex } from '@sitecast/shared/content';
import { encodeRecipe } from '@sitecast/shared/delta';
import type { DeltaName } from '@sitecast/shared/release';
import type { NewDelta } from '../repository/delta-change.ts';
import { hexOf, imageOf, type TestImage } from './operator.ts';

/** A delta whose one window makes the last chunk of `target` from all of `base`, by patches that nobody applies. */
export function testDelta(
  name: DeltaName,
  { base, target, patches }: { base: TestImage; target: TestImage; patches: readonly Buffer[] },
): NewDelta & { patchChunks: readonly Buffer[] } {
  const { index: patchIndex } = imageOf(...patches);
  const indexes = { base: ChunkIndex.decode(base.index), target: ChunkIndex.decode(target.index) };
  const head = {
    product: name.product,
    from: { counter: name.from, indexSha256: hexOf(base.index) },
    to: { counter: name.to, indexSha256: hexOf(target.index) },
    patchIndexSha256: hexOf(patchIndex),
    encoders: [],
    restFrameBytes: 0,
  };
  const window = {
    firstChunk: indexes.target.count - 1,
    chunkCount: 1,
    baseOffset: 0,
    baseLength: Math.min(indexes.base.lengthBytes, 2 ** 20),
    patchLength: patches.reduce((sum, { length }) => sum + length, 0),
    frameBytes: 1000,
    encoderBits: 0,
  };
  const recipe = encodeRecipe(head, [window], indexes);
  return { ...name, recipe, patchIndex, patchChunks: patches };
}

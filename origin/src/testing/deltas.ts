import { ChunkIndex } from '@sitecast/shared/content';
import { encodePatch, encodeRecipe } from '@sitecast/shared/delta';
import type { DeltaName } from '@sitecast/shared/release';
import { composeDelta } from '../deltas/maker/index.ts';
import type { DeltaMaker, DeltaRequest, WindowPlace } from '../deltas/maker-port.ts';
import type { NewDelta } from '../repository/check-deltas.ts';
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

/**
 * A maker for tests: each missing chunk of the target is a window of its own, with a patch that holds all of its bytes.
 * @param hooks called before each window, and with each that is left out because it was made before
 */
export function testMaker(
  hooks: {
    onRequest?: (request: DeltaRequest) => void;
    onWindow?: (place: WindowPlace) => Promise<void>;
    onSkipped?: (place: WindowPlace) => void;
    /** False: no patch is smaller than its frames. */
    isWorth?: boolean;
  } = {},
): DeltaMaker {
  return {
    async *makeDelta(request) {
      const { base, target, signal } = request;
      hooks.onRequest?.(request);
      for (let at = 0; at < target.index.count; at += 1) {
        if (base.index.find(target.index.idAt(at)) !== undefined) continue;
        const place = {
          firstChunk: at,
          chunkCount: 1,
          targetOffset: target.index.startOf(at),
          targetLength: target.index.lengthOf(at),
          baseOffset: 0,
          baseLength: Math.min(base.index.lengthBytes, 100),
        };
        if (request.isMade?.(place) === true) {
          hooks.onSkipped?.(place);
          continue;
        }
        await hooks.onWindow?.(place);
        signal?.throwIfAborted();
        const extra = await target.read(place.targetOffset, place.targetLength);
        const control = Int32Array.of(0, place.targetLength, 0);
        const patch = await encodePatch({ control, diff: new Uint8Array(), extra }, []);
        yield {
          ...place,
          patch: hooks.isWorth === false ? undefined : patch,
          // Those of a chunk that compresses worse, so that a patch pays that holds all of its bytes.
          frameBytes: (await request.frameBytes(at)) + 8192,
        };
      }
    },
    composeDelta,
  };
}

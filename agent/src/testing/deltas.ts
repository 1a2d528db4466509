import { createHash } from 'node:crypto';
import type { ChunkIndex } from '@sitecast/shared/content';
import { encodePatch, encodeRecipe, type RecipeWindow, type StreamEncoder } from '@sitecast/shared/delta';
import type { FleetRepository, PublishedImage } from '@sitecast/shared/testing/origin';

/** A delta of equally long windows between two images, for tests. It claims to be worth it. */
export interface TestDelta {
  from: number;
  to: number;
  base: PublishedImage;
  target: PublishedImage;
  /** Numbers of the first chunks of the windows, and how many chunks each has. */
  firsts: readonly number[];
  chunkCount: number;
  /** An encoder that the recipe says is needed for its first window. */
  encoder?: string;
  /** What its streams are compressed by. Default: nothing. */
  encoders?: readonly StreamEncoder[];
  /** Chunks of the patches have that many bytes. */
  patchChunkBytes?: number;
  /** Windows read nothing of the base. */
  isWithoutBase?: boolean;
  /** The role that lists it; `deltas` unless given. */
  role?: 'deltas' | 'targets';
  /** Alters the patches, say. */
  spoil?: (patches: Buffer[]) => Buffer[];
}

/** Publishes the delta. Each window is made from the base's bytes at the same offset. @returns the length of all patches */
export async function publishTestDelta(fleet: FleetRepository, delta: TestDelta): Promise<number> {
  const { from, to, base, target, spoil = same => same } = delta;
  const windows: RecipeWindow[] = [];
  const made: Buffer[] = [];
  for (const firstChunk of delta.firsts) {
    const offset = target.index.startOf(firstChunk);
    const end = target.index.endOf(firstChunk + delta.chunkCount - 1);
    const baseOffset = delta.isWithoutBase === true ? 0 : offset;
    const old = base.image.subarray(baseOffset, delta.isWithoutBase === true ? 0 : end);
    const add = old.length;
    const diff = Uint8Array.from(old, (byte, at) => (target.image[offset + at] ?? 0) - byte);
    const extra = target.image.subarray(offset + add, end);
    const patch = await encodePatch(
      { control: Int32Array.from([add, extra.length, 0]), diff, extra },
      delta.encoders ?? [],
    );
    made.push(patch);
    const lengths = { baseOffset, baseLength: add, patchLength: patch.length };
    windows.push({
      firstChunk,
      chunkCount: delta.chunkCount,
      ...lengths,
      frameBytes: 2 * (end - offset),
      encoderBits: delta.encoder !== undefined && windows.length === 0 ? 1 : 0,
    });
  }
  const patches = Buffer.concat(spoil(made));
  const releaseOf = (counter: number, index: ChunkIndex) => ({
    counter,
    indexSha256: sha256(index.encode()),
  });
  const head = {
    product: 'camera',
    from: releaseOf(from, base.index),
    to: releaseOf(to, target.index),
    encoders: delta.encoder === undefined ? [] : [delta.encoder],
    restFrameBytes: restFrameBytes(delta),
  };
  const indexes = { base: base.index, target: target.index };
  const recipe = (patchIndex: Uint8Array) =>
    encodeRecipe({ ...head, patchIndexSha256: sha256(patchIndex) }, windows, indexes);
  const { patchChunkBytes = 5000, role } = delta;
  await fleet.publishDelta({ product: 'camera', from, to }, recipe, patches, patchChunkBytes, role);
  return patches.length;
}

/** Of the chunks that neither the base nor a window gives. */
function restFrameBytes({ base, target, firsts, chunkCount }: TestDelta): number {
  const isInWindow = (at: number) => firsts.some(first => at >= first && at < first + chunkCount);
  return target.chunks.reduce((sum, chunk, at) => {
    const isGiven = isInWindow(at) || base.index.find(target.index.idAt(at)) !== undefined;
    return isGiven ? sum : sum + chunk.frame().length;
  }, 0);
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

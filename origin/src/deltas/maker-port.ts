import type { ChunkIndex } from '@sitecast/shared/content';
import { decodeRecipe, type RecipeRelease } from '@sitecast/shared/delta';

/** The most bytes of all patches of one delta. Devices fetch chunks for the rest. */
export const MAX_DELTA_PATCH_BYTES = 256 * 1024 * 1024;

/** An image whose index and bytes can be read. */
export interface ImageSource {
  readonly index: ChunkIndex;
  /** Reads exactly the bytes `[offset, offset + lengthBytes)` of the image. */
  read(offset: number, lengthBytes: number): Promise<Uint8Array>;
}

/** A run of chunks of the target that is made from one range of the base. Offsets and lengths are bytes of the images. */
export interface WindowPlace {
  readonly firstChunk: number;
  readonly chunkCount: number;
  readonly targetOffset: number;
  readonly targetLength: number;
  readonly baseOffset: number;
  readonly baseLength: number;
}

/** The result for one window. */
export interface MadeWindow extends WindowPlace {
  /** Bytes of the frames of those of its chunks that the base holds nowhere. */
  readonly frameBytes: number;
  /** Undefined where devices fetch its chunks instead; `unmade` says why. */
  readonly patch: Uint8Array | undefined;
  /** Why there is no patch: it would not be smaller than the frames, it took too long, or the maker's process failed. */
  readonly unmade?: 'notSmaller' | 'deadline' | 'failed';
  /** The error, where it failed: for the log. */
  readonly failure?: string;
}

export interface DeltaRequest {
  readonly base: ImageSource;
  readonly target: ImageSource;
  /** Bytes of the frame of chunk number `chunk` of the target: what a device would fetch without the delta. */
  readonly frameBytes: (chunk: number) => number | Promise<number>;
  /**
   * Whether an interrupted run has finished this window already: then it is skipped. The same version of this program cuts the same images
   * into the same windows.
   */
  readonly isMade?: (place: WindowPlace) => boolean;
  /** Names of the codecs that devices have: only compressed pieces of these are opened. Default: all. */
  readonly encoders?: readonly string[];
  /** How long the patch of one window may take, in ms. Default: 10 minutes. */
  readonly patchDeadlineMs?: number;
  readonly signal?: AbortSignal;
}

/** A window with a patch, as a recipe lists it. */
export interface ComposedWindow extends WindowPlace {
  readonly frameBytes: number;
  readonly patchLength: number;
  /** Reads its patch. Each call gives the same bytes. */
  readonly readPatch: () => Promise<Uint8Array>;
}

/** A delta in the form in which it is published. */
export interface ComposedDelta {
  readonly recipe: Buffer;
  /** The index of all patches, concatenated. As an index has at least one chunk, that of no patches has one of one byte. */
  readonly patchIndex: ChunkIndex;
  /** Plain bytes of the patch index's chunks, in its order, each at most MAX_CHUNK_BYTES. Each call reads the patches again. */
  readonly chunks: () => AsyncIterable<Uint8Array>;
}

/** Makes deltas. It knows images and patches, but no releases, jobs or stores. */
export interface DeltaMaker {
  /**
   * Makes the windows in the target's order. It makes the next one only when the caller asks for it, so the caller can store each before.
   * @throws SITECAST_WORKER_FAILED, what `read` and `frameBytes` throw, the signal's reason
   */
  makeDelta(request: DeltaRequest): AsyncIterable<MadeWindow>;
  /**
   * Puts recipe and patches together. Only one patch is in memory at a time.
   * @param head its two `indexSha256` must be those of the given indexes
   * @param windows all windows that have a patch, in the target's order
   * @param frameBytes bytes of the frame of chunk number `chunk` of the target
   * @throws SITECAST_RECIPE_… where windows don't fit the indexes; what `readPatch` throws
   */
  composeDelta(
    head: { readonly product: string; readonly from: RecipeRelease; readonly to: RecipeRelease },
    indexes: { readonly base: ChunkIndex; readonly target: ChunkIndex },
    windows: readonly ComposedWindow[],
    frameBytes: (chunk: number) => number | Promise<number>,
  ): Promise<ComposedDelta>;
}

/** How much a delta must save for each device: listing it costs every site about 0.5 KiB of metadata. */
const MIN_SAVED_BYTES = 4096;

/** What a device fetches with a delta: recipe and patch index, patches, and the frames that neither base nor patches give. All in bytes. */
export interface DeltaCosts {
  headBytes: number;
  patchBytes: number;
  restBytes: number;
  /** What it fetches without the delta: the index, and the frames that the base lacks. */
  chunkBytes: number;
  /** Whether the delta saves enough to be published. */
  pays: boolean;
}

/**
 * @param windows those that have a patch
 * @param indexBytes length of the target's index
 */
export function deltaCosts(
  { recipe, patchIndex }: Pick<ComposedDelta, 'recipe' | 'patchIndex'>,
  windows: readonly Pick<ComposedWindow, 'frameBytes' | 'patchLength'>[],
  indexBytes: number,
): DeltaCosts {
  const restBytes = decodeRecipe(recipe).restFrameBytes;
  const patchBytes = windows.reduce((sum, { patchLength }) => sum + patchLength, 0);
  // Without patches, devices don't fetch the patch index.
  const headBytes = recipe.length + (windows.length > 0 ? patchIndex.encode().length : 0);
  const chunkBytes = indexBytes + windows.reduce((sum, window) => sum + window.frameBytes, 0) + restBytes;
  const pays = chunkBytes - (headBytes + patchBytes + restBytes) >= MIN_SAVED_BYTES;
  return { headBytes, patchBytes, restBytes, chunkBytes, pays };
}

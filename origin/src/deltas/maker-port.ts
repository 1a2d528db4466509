import type { ChunkIndex } from '@sitecast/shared/content';
import { decodeRecipe, type RecipeRelease } from '@sitecast/shared/delta';

/** Patches of one delta together. The rest is sent as chunks. */
export const MAX_DELTA_PATCH_BYTES = 256 * 1024 * 1024;

/** An image whose index and bytes are at hand. */
export interface ImageSource {
  readonly index: ChunkIndex;
  /** @returns exactly the image's bytes from `offset` on, `lengthBytes` of them */
  read(offset: number, lengthBytes: number): Promise<Uint8Array>;
}

/** A run of chunks of the target that are made together, from one range of the base. Offsets and lengths are bytes of the images. */
export interface WindowPlace {
  readonly firstChunk: number;
  readonly chunkCount: number;
  readonly targetOffset: number;
  readonly targetLength: number;
  readonly baseOffset: number;
  readonly baseLength: number;
}

/** What became of a window. */
export interface MadeWindow extends WindowPlace {
  /** Bytes of the frames of those of its chunks that the base holds nowhere. */
  readonly frameBytes: number;
  /** Undefined where its chunks are to be sent as they are: see `unmade`. */
  readonly patch: Uint8Array | undefined;
  /** Why there is no patch: it would not be smaller than the frames, took too long, or the process that makes it failed. */
  readonly unmade?: 'notSmaller' | 'deadline' | 'failed';
  /** What went wrong, where it failed: for the log. */
  readonly failure?: string;
}

export interface DeltaRequest {
  readonly base: ImageSource;
  readonly target: ImageSource;
  /** Bytes of the frame of chunk number `chunk` of the target: what a device would fetch without the delta. */
  readonly frameBytes: (chunk: number) => number | Promise<number>;
  /**
   * Whether this window was made before, by a run that was interrupted: it's left out. The same images are cut into the
   * same windows by the same version of this program.
   */
  readonly isMade?: (place: WindowPlace) => boolean;
  /** Names of the codecs of compressed pieces that devices have; all unless given. Images are opened by these alone. */
  readonly encoders?: readonly string[];
  /** How long the patch of one window may take, in ms; 10 minutes unless given. */
  readonly patchDeadlineMs?: number;
  readonly signal?: AbortSignal;
}

/** A window that a recipe can name. */
export interface ComposedWindow extends WindowPlace {
  readonly frameBytes: number;
  readonly patchLength: number;
  /** Its patch, the same bytes at each call. */
  readonly readPatch: () => Promise<Uint8Array>;
}

/** A delta as it is published. */
export interface ComposedDelta {
  readonly recipe: Buffer;
  /** The index of all patches, one after the other. An index lists at least one chunk: without a window it is one byte. */
  readonly patchIndex: ChunkIndex;
  /** Plain bytes of the chunks that the patch index lists, in its order, each at most MAX_CHUNK_BYTES. Patches are read for it again. */
  readonly chunks: () => AsyncIterable<Uint8Array>;
}

/** What makes deltas: it knows images and patches, and nothing of releases, jobs and stores. */
export interface DeltaMaker {
  /**
   * Makes the windows in the target's order, each as soon as the one before is taken: the caller keeps what it was given before it asks
   * for more.
   * @throws SITECAST_WORKER_FAILED, what `read` and `frameBytes` throw, the signal's reason
   */
  makeDelta(request: DeltaRequest): AsyncIterable<MadeWindow>;
  /**
   * Puts the recipe and the patches together, of which one is in memory at one time.
   * @param head `indexSha256` of both releases is that of the indexes given
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

/** What a delta must save at a device: listing it costs every site about 0.5 KiB of metadata. */
const MIN_SAVED_BYTES = 4096;

/** What a device fetches by a delta: recipe and patch index, patches, and the frames that neither base nor patches give. All in bytes. */
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
  // Nobody fetches an index of no patches.
  const headBytes = recipe.length + (windows.length > 0 ? patchIndex.encode().length : 0);
  const chunkBytes = indexBytes + windows.reduce((sum, window) => sum + window.frameBytes, 0) + restBytes;
  const pays = chunkBytes - (headBytes + patchBytes + restBytes) >= MIN_SAVED_BYTES;
  return { headBytes, patchBytes, restBytes, chunkBytes, pays };
}
